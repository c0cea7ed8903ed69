/** Questions and their answers, which appear while they are computed. */

import type { Message, Model, Region, Stream } from "qvl-runtime";
import { byId, make, messageOf, say } from "./dom.js";
import { colorOf, drawRegions, type Picture, picture } from "./picture.js";

/** Pixels from the end of the conversation. */
const NEAR = 120;
const LONGEST = 1024;

/** `text` is null until the answer has ended. */
interface Turn {
  question: string;
  picture: Picture | null;
  text: string | null;
}

const turns: Turn[] = [];
let running: AbortController | null = null;

/** Asks what is in the question's field. */
export async function ask(model: Model): Promise<void> {
  const field = byId<HTMLTextAreaElement>("question");
  const question = field.value.trim();
  if (running !== null || question === "") return;
  field.value = "";
  const messages = messagesOf(question);
  const turn: Turn = { question, picture, text: null };
  const answer = begin(turn);
  running = new AbortController();
  busy(true);
  drawRegions([]);
  try {
    const stream = model.stream(messages, { max_new_tokens: LONGEST, stop_loops: true, signal: running.signal });
    turn.text = await written(stream, answer.querySelector("pre")!);
    const [placed] = (await stream.prompt).placed;
    const regions = placed === undefined ? [] : model.regions(turn.text, placed);
    if (regions.length > 0) answer.append(chips(turn, regions));
    answer.append(make("p", "meta", factsOf(stream)));
    say(stream.run.finishReason === "cancelled" ? "Stopped." : "");
  } catch (error) {
    answer.append(make("p", "error", messageOf(error)));
    say("The answer failed.");
  }
  answer.classList.remove("running");
  running = null;
  busy(false);
  follow();
  field.focus();
}

export function stop(): void {
  running?.abort();
}

export function clear(): void {
  stop();
  turns.length = 0;
  byId("talk").replaceChildren(byId("empty"));
  byId("empty").hidden = false;
  drawRegions([]);
}

/** The question, after earlier ones about the same page if they are wanted; the page comes first. */
function messagesOf(question: string): Message[] {
  const wanted = byId<HTMLInputElement>("earlier").checked;
  const earlier = wanted ? turns.filter((turn) => turn.picture === picture && turn.text) : [];
  const messages: Message[] = earlier.flatMap(({ question, text }) => [
    { role: "user", content: question },
    { role: "assistant", content: text! },
  ]);
  messages.push({ role: "user", content: question });
  if (picture !== null) {
    const text = messages[0].content as string;
    messages[0].content = [
      { type: "image", image: picture.image },
      { type: "text", text },
    ];
  }
  return messages;
}

function begin(turn: Turn): HTMLElement {
  const talk = byId("talk");
  if (turns.length === 0) byId("empty").hidden = true;
  if (turn.picture !== null && turn.picture !== turns.at(-1)?.picture) {
    talk.append(make("div", "about", turn.picture.title));
  }
  turns.push(turn);
  const answer = make("div", "answer running");
  answer.append(make("pre"));
  talk.append(make("div", "question", turn.question), answer);
  follow(true);
  return answer;
}

async function written(stream: Stream, text: HTMLElement): Promise<string> {
  let whole = "";
  for await (const piece of stream) {
    whole += piece;
    text.append(piece);
    follow();
  }
  return whole;
}

function factsOf({ run }: Stream): string {
  const { times, counts, finishReason } = run;
  const facts = [`${(times.firstToken + times.decode).toFixed(1)} s`, `${counts.generated} tokens`];
  facts.push(`prompt ${counts.prompt}${counts.reused > 0 ? `, ${counts.reused} of them cached` : ""}`);
  facts.push(`first token after ${times.firstToken.toFixed(2)} s`);
  if (finishReason === "cancelled") facts.push("stopped");
  if (finishReason === "length" || finishReason === "loop") facts.push(`cut off (${finishReason})`);
  return facts.join(" · ");
}

/** A button for each box, which shows it on the page. */
function chips(turn: Turn, regions: readonly Region[]): HTMLElement {
  const list = make("div", "chips");
  const draw = (lit?: number) => {
    if (turn.picture === picture) drawRegions(regions, lit);
  };
  regions.forEach((region, index) => {
    const corners = "x" in region ? [region.x, region.y] : [region.x1, region.y1, region.x2, region.y2];
    const chip = make("button", "", `${region.label || "box"} ${corners.map(Math.round).join(", ")}`);
    chip.type = "button";
    chip.title = "Place in pixels; shows it on the page";
    chip.style.borderColor = colorOf(regions, region);
    chip.addEventListener("click", () => {
      draw(index);
      byId("page").scrollIntoView({ block: "nearest" });
    });
    for (const event of ["pointerenter", "focus"]) chip.addEventListener(event, () => draw(index));
    for (const event of ["pointerleave", "blur"]) chip.addEventListener(event, () => draw());
    list.append(chip);
  });
  draw();
  return list;
}

function busy(is: boolean): void {
  byId<HTMLButtonElement>("send").disabled = is;
  byId<HTMLButtonElement>("stop").disabled = !is;
  byId("talk").setAttribute("aria-busy", String(is)); // read aloud when it is whole
  if (is) say("Answering…");
}

function follow(always = false): void {
  const talk = byId("talk");
  const scrolled = talk.scrollHeight > talk.clientHeight ? talk : document.scrollingElement!;
  const below = scrolled.scrollHeight - scrolled.scrollTop - scrolled.clientHeight;
  if (always || below < NEAR) scrolled.scrollTop = scrolled.scrollHeight; // who reads further up is left there
}
