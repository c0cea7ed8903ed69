"""Sentences for letters and notes, written for this generator, with blanks for names, dates, places and numbers."""

from __future__ import annotations

from random import Random

from . import words

SUBJECTS = {
    "en": ("Change of address", "Our meeting", "Repair of the roof", "Delivery of your order", "Annual report"),
    "zh": ("关于会议安排", "订单发货通知", "合同续签事宜", "设备检修通知", "年度总结", "开放日邀请"),
}
GREETINGS = {"en": "Dear {},", "zh": "尊敬的{}："}
CLOSINGS = {
    "en": ("Yours sincerely,", "Kind regards,", "With best wishes,"),
    "zh": ("此致敬礼", "顺颂商祺", "祝工作顺利"),
}
SENTENCES = {
    "en": (
        "Thank you for your letter of {day}.",
        "We have moved to {address} and look forward to seeing you there.",
        "The parcel with {number} pieces left our store this morning and should reach {town} within the week.",
        "Please call {person} on {phone} if anything is unclear.",
        "The work took longer than planned because the old pipes had to be replaced first.",
        "I enclose a copy of the plan, which lists every room and its use.",
        "Our office will be closed on {day}.",
        "In all, {number} visitors came, more than in any year before.",
        "The second part of the report explains how the figures were collected and checked.",
        "If it suits you, we could meet in {town} on {day}.",
        "The price per piece is ${money}, packing included.",
        "May I ask you to return the signed form by {day}?",
        "Heavy rain delayed the ferry, so the group arrived only after dark.",
        "{person} has agreed to look after the garden until the new tenants move in.",
        "You will find the key with our neighbour at {address}.",
        "As agreed, {percent}% of the sum is due at once and the rest on completion.",
    ),
    "zh": (
        "您{day}的来信已经收到，谢谢。",
        "我公司已迁至{address}，欢迎前来参观。",
        "您订购的{number}件货物已于今日发出，预计一周内送达{town}。",
        "如有疑问，请与{person}联系，电话：{phone}。",
        "由于旧管道需要更换，工程比原计划有所推迟。",
        "随信附上平面图一份，图中标明了每个房间的用途。",
        "我处将于{day}放假一天，请提前安排好工作。",
        "本次活动共有{number}人参加，人数超过往年。",
        "报告的第二部分说明了数据的来源和核对方法。",
        "如果您方便，我们可以在{day}见面详谈。",
        "每件单价为{money}元，含包装费用。",
        "请您在{day}之前将签好的表格寄回。",
        "连日大雨，江水上涨，客船晚点，一行人天黑后才到达{town}。",
        "{person}答应在新住户搬来之前照看花园。",
        "按照约定，合同签订后先付百分之{percent}，余款在验收后付清。",
        "希望双方继续保持良好的合作关系。",
    ),
}


def filled(rng: Random, language: str, count: int) -> list[str]:
    """`count` different sentences with their blanks filled."""
    return [
        text.format(
            day=words.written(words.day(rng), language, 1),
            address=words.address(rng, language),
            town=rng.choice(words.TOWNS[language]),
            person=words.person(rng, language),
            phone=words.phone(rng, language),
            number=rng.randint(3, 950),
            money=words.amount(rng.randint(100, 99999)),
            percent=rng.choice((10, 20, 30, 40, 50)),
        )
        for text in rng.sample(SENTENCES[language], count)
    ]
