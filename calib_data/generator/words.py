"""Words that pages are filled with, in English ("en") and Chinese ("zh"); all of them invented or common."""

from __future__ import annotations

import random
from datetime import date

from .simple import CITIES, FIRST_NAMES, LAST_NAMES

Rng = random.Random


def _listed(text: str) -> list[str]:
    return text.split(",")


SHOPS = {
    "en": _listed(
        "Corner Market,Green Leaf Grocery,Harbour Cafe,Sunrise Bakery,North Star Books,Hill Street Hardware,"
        "Blue Door Deli,Old Mill Pharmacy"
    ),
    "zh": _listed("便民超市,绿叶生鲜,海风咖啡馆,晨光面包房,北辰书店,老街五金店,江南小馆,仁和药房"),
}
COMPANIES = {
    "en": _listed(
        "Alder & Finch Ltd,Brightwater Supplies,Cobalt Engineering,Delta Paper Works,Evergreen Logistics,"
        "Foxglove Design Studio,Granite Tools Inc,Hazel Office Systems"
    ),
    "zh": _listed(
        "青松科技有限公司,蓝海物流有限公司,明德文化传播有限公司,华宇机械设备有限公司,金穗粮油贸易有限公司,"
        "云帆软件有限公司,长河建筑工程有限公司"
    ),
}
# name, lowest and highest price in hundredths of the currency
GOODS = {
    "en": [
        ("Whole milk 1L", 99, 249), ("Rye bread", 180, 450), ("Apples 1kg", 150, 399), ("Ground coffee", 450, 1290),
        ("Green tea", 210, 690), ("Orange juice", 190, 420), ("Butter 250g", 199, 399), ("Basmati rice", 220, 640),
        ("Olive oil", 590, 1490), ("Dark chocolate", 150, 380), ("Batteries AA", 399, 999), ("Notebook A5", 250, 690),
        ("Light bulb", 199, 890), ("Hand soap", 129, 349), ("Paper towels", 199, 499), ("Cheddar cheese", 320, 780),
    ],
    "zh": [
        ("纯牛奶", 350, 690), ("全麦面包", 680, 1580), ("红富士苹果", 590, 1290), ("乌龙茶", 1800, 8800),
        ("五常大米", 2990, 6990), ("酱油", 690, 1890), ("矿泉水", 150, 350), ("鲜鸡蛋", 990, 2190),
        ("洗衣液", 1990, 4590),
        ("抽纸", 890, 2690), ("花生油", 4990, 9990), ("西红柿", 390, 990), ("豆腐", 200, 600), ("方便面", 250, 550),
    ],
}  # fmt: skip
SERVICES = {
    "en": [
        ("Office chair", 8900, 24900), ("Standing desk", 29900, 69900), ("Printer toner", 3900, 12900),
        ("Site survey", 15000, 60000), ("Copy paper A4, box", 1890, 3490), ("Network switch 8-port", 2990, 8990),
        ("Translation, per page", 2500, 6500), ("Delivery", 900, 4500), ("Monitor 24 inch", 11900, 25900),
        ("Logo design", 20000, 90000), ("Maintenance visit", 8000, 22000), ("Steel bracket", 120, 790),
    ],
    "zh": [
        ("办公椅", 28000, 98000), ("激光打印机", 99900, 269900), ("复印纸", 2200, 4500), ("软件服务费", 100000, 900000),
        ("设备维修费", 30000, 180000), ("运输费", 8000, 60000), ("显示器", 69900, 199900), ("设计费", 80000, 500000),
        ("钢管", 4500, 26000), ("水泥", 2800, 5600), ("投影仪", 199900, 599900),
    ],
}  # fmt: skip
STREETS = {
    "en": _listed("Mill Lane,Station Road,Park Avenue,Church Street,Harbour Walk,Elm Grove,Queen Street"),
    "zh": _listed("人民路,中山大道,解放街,建设路,和平里,文化西路,滨江大道"),
}
TOWNS = {"en": CITIES, "zh": _listed("北京市,上海市,杭州市,成都市,武汉市,西安市,南京市,昆明市,青岛市,厦门市")}
SURNAMES = "王李张刘陈杨赵黄周吴徐孙马朱胡林郭何高罗"
GIVEN = "明华丽军芳伟敏静强磊洋艳勇杰娟涛超秀英平文玉兰海燕"

MONTHS = _listed("January,February,March,April,May,June,July,August,September,October,November,December")
DIGITS = "零壹贰叁肆伍陆柒捌玖"


def person(rng: Rng, language: str) -> str:
    if language == "zh":
        return rng.choice(SURNAMES) + "".join(rng.sample(GIVEN, rng.randint(1, 2)))
    return f"{rng.choice(FIRST_NAMES)} {rng.choice(LAST_NAMES)}"


def address(rng: Rng, language: str) -> str:
    number, street, town = rng.randint(1, 299), rng.choice(STREETS[language]), rng.choice(TOWNS[language])
    return f"{town}{street}{number}号" if language == "zh" else f"{number} {street}, {town}"


def phone(rng: Rng, language: str) -> str:
    """A number with 555 where an exchange would be, so that it is nobody's."""
    if language == "zh":
        return f"0{rng.randint(10, 99)}-5550{rng.randint(0, 9999):04d}"
    return f"{rng.randint(200, 999)}-555-{rng.randint(0, 9999):04d}"


def day(rng: Rng, first: int = 2018, last: int = 2026) -> date:
    return date(rng.randint(first, last), rng.randint(1, 12), rng.randint(1, 28))


def written(day: date, language: str, style: int) -> str:
    """`style` 0 is 2024-05-06, 1 is the language's own."""
    if not style:
        return day.isoformat()
    if language == "zh":
        return f"{day.year}年{day.month}月{day.day}日"
    return f"{day.day} {MONTHS[day.month - 1]} {day.year}"


def digits(rng: Rng, count: int) -> str:
    return "".join(rng.choice("0123456789") for _ in range(count))


def amount(cents: int) -> str:
    return f"{cents // 100:,}.{cents % 100:02d}"


def capital_amount(cents: int) -> str:
    """An amount in Chinese banker's numerals, below a hundred million yuan: 壹仟零伍拾元伍角整."""
    yuan, jiao, fen = cents // 100, cents // 10 % 10, cents % 10
    text = _capital_number(yuan) + "元" if yuan else ""
    if jiao:
        text += DIGITS[jiao] + "角"
    elif fen and yuan:
        text += "零"
    return text + (DIGITS[fen] + "分" if fen else "整")


def _capital_number(number: int) -> str:
    if number >= 10000:
        low = number % 10000
        zero = "零" if 0 < low < 1000 else ""
        return _capital_number(number // 10000) + "万" + zero + (_capital_number(low) if low else "")
    text, gap = "", False
    for unit, name in ((1000, "仟"), (100, "佰"), (10, "拾"), (1, "")):
        digit = number // unit % 10
        if digit:
            text += ("零" if gap and text else "") + DIGITS[digit] + name
        gap = digit == 0
    return text
