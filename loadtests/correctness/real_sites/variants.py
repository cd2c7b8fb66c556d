"""Other questions for the same targets: HEAD, preconditions, ranges of what is stored and of what is not yet."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence

from loadtests.correctness.real_sites.client import CONNECTIONS, Answer
from loadtests.correctness.real_sites.crawls import spread
from loadtests.correctness.real_sites.processes import say
from loadtests.correctness.real_sites.rules import Moving, compare, compare_fields, is_hit
from loadtests.correctness.real_sites.site import Both, Site
from loadtests.correctness.real_sites.storable import Allowed, allowed
from loadtests.correctness.real_sites.tally import Tally

MOST = 200
MOST_RANGED = 60
LEAST_RANGED = 2000  # bytes
PLANS = (
    ("bytes=0-999", "bytes=500-1499", "bytes=1700-1799", "bytes=200-1400"),  # with a gap: the whole is asked for
    ("bytes=0-999", "bytes=1000-1499"),  # a beginning: the rest is asked for, and joined
)


async def ask_otherwise(site: Site, both: Both, tally: Tally, own: Sequence[Answer]) -> None:
    """All of it; `own` holds what the origin answered to each target."""
    known = {target: answer for target, answer in zip(site.targets, own, strict=True) if not answer.failure}
    say(f"{site.name}: HEAD, preconditions, ranges")
    await heads(site, both, tally, {target: known[target] for target in spread(list(known), MOST)})
    whole = {target: answer for target, answer in known.items() if answer.status == 200 and answer.content}
    await preconditions(both, tally, {target: whole[target] for target in spread(list(whole), MOST)})
    ranged = {target: answer for target, answer in whole.items() if answer.field("accept-ranges") == "bytes"}
    for target in spread(list(ranged), MOST_RANGED):
        await ranges(both, tally, target, ranged[target], "Range of a stored whole")
    for number, target in enumerate(spread(site.untouched, MOST_RANGED)):
        await parts_first(site, both, tally, target, PLANS[number % len(PLANS)])
    await herds(site, both, tally)


async def heads(site: Site, both: Both, tally: Tally, known: dict[str, Answer]) -> None:
    """HEAD: no content, the fields of the origin's HEAD or of its GET."""
    targets = list(known)
    own = await both.origin.crawl(targets, method="HEAD")
    through = await both.pop.crawl(targets, method="HEAD")
    for target, mine, other in zip(targets, own, through, strict=True):
        found = [] if other.status == mine.status else [f"status: {mine.status} / {other.status} {other.failure}"]
        found += ["content"] if other.content else []
        found += either(other, (mine, without_content(known[target])), site.moving)
        tally.check("HEAD", target, *found)


def without_content(answer: Answer) -> Answer:
    """The answer to HEAD that the answer to GET stands for."""
    lines = [line for line in answer.fields if line[0] != "content-length"]
    lines.append(("content-length", str(len(answer.content))))
    return Answer(answer.status, answer.reason, tuple(lines), b"", answer.received)


def either(
    through: Answer, references: Sequence[Answer], moving: Sequence[Moving] = (), skip: Sequence[str] = ()
) -> list[str]:
    """What differs from the reference that is nearest; nothing if one of them is the same."""
    return min((compare_fields(one, through, moving, skip)[0] for one in references), key=len)


async def preconditions(both: Both, tally: Tally, whole: dict[str, Answer]) -> None:
    """If-None-Match and If-Modified-Since with the origin's own validators, and with a tag that never was."""
    for target, answer in whole.items():
        etag, modified = answer.field("etag"), answer.field("last-modified")
        questions = [("If-None-Match", etag), ("If-Modified-Since", modified if etag is None else None)]
        for name, value in questions:
            if value is not None:
                await _precondition(both, tally, target, answer, {name: value})
        if etag is not None and answer.field("cache-control") != "no-store":
            other = await both.pop.ask(target, {"If-None-Match": '"never-was"'})
            found = [] if other.status == answer.status else [f"status {other.status} {other.failure}"]
            tally.check("other ETag → 200", target, *found)


async def _precondition(both: Both, tally: Tally, target: str, whole: Answer, question: dict[str, str]) -> None:
    """The origin and the POP agree; a 304 has no content, and no field that says anything else than the origin does."""
    mine, other = await asyncio.gather(both.origin.ask(target, question), both.pop.ask(target, question))
    if mine.status == 200 and mine.field("etag") != whole.field("etag"):
        tally.notes["304: not comparable, the origin's own validator moves"] += 1
        return
    name = f"{next(iter(question))} → {mine.status}"
    found = [] if other.status == mine.status else [f"status: {mine.status} / {other.status} {other.failure}"]
    if other.status == 304:
        found += ["content"] if other.content else []
        found += _not_in(other, mine, whole)
        missing = mine.field("etag") is not None and other.field("etag") is None
        found += ["no ETag"] if missing else []
    tally.check(name, target, *found)


def _not_in(other: Answer, *references: Answer) -> list[str]:
    """Fields of a 304 whose value none of the references has."""
    dropped = ("date", "expires", "age", "cache-status", "via", "connection", "keep-alive", "content-length")
    return [
        f"{name}: {value}"
        for name, value in other.fields
        if name not in dropped and all(value not in one.values(name) for one in references)
    ]


# --- ranges ---------------------------------------------------------------------------------------------------------


def range_questions(length: int) -> list[str]:
    """Ranges that mean something for a content of `length` bytes, one past its end, and two at once."""
    middle = length // 2
    single = ["0-0", "0-99", f"{middle}-{middle + 499}", "-77", f"{length - 1}-", f"{length}-"]
    return [f"bytes={one}" for one in [*single, f"0-9,{middle}-{middle + 9}"]]


async def ranges(both: Both, tally: Tally, target: str, whole: Answer, name: str) -> None:
    """Each range gives its slice of the origin's bytes."""
    for asked in range_questions(len(whole.content)):
        question = {"Range": asked}
        mine, other = await asyncio.gather(both.origin.ask(target, question), both.pop.ask(target, question))
        tally.check(name, f"{target} {asked}", *range_problems(whole, mine, other, asked))


def range_problems(whole: Answer, mine: Answer, other: Answer, asked: str) -> list[str]:
    """What is wrong with the POP's answer to a range."""
    if other.failure or other.status != mine.status:
        return [f"status: {mine.status} / {other.status} {other.failure}"]
    if other.status != 206:
        return [] if other.status == 416 or other.content == mine.content else ["content"]
    if "," in asked:
        parts, wanted = _parts(other), _parts(mine)
        return [] if parts == wanted and parts else [f"parts: {str(wanted)[:200]} / {str(parts)[:200]}"]
    bounds = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", other.field("content-range") or "")
    if bounds is None or mine.field("content-range") != other.field("content-range"):
        return [f"content-range: {mine.field('content-range')} / {other.field('content-range')}"]
    found = [] if other.content == whole.content[int(bounds[1]) : int(bounds[2]) + 1] else ["not the slice"]
    from_whole = Answer(206, other.reason, whole.fields, other.content, whole.received)
    return found + either(other, (mine, from_whole), skip=("content-range",))


def _parts(answer: Answer) -> list[tuple[str, bytes]]:
    """The parts of a multipart/byteranges: Content-Range and bytes of each."""
    boundary = re.search(r'boundary="?([^";]+)', answer.field("content-type") or "")
    if boundary is None:
        return []
    found = []
    for piece in answer.content.split(b"--" + boundary[1].encode())[1:-1]:
        head, _, content = piece.partition(b"\r\n\r\n")
        named = re.search(rb"(?i)content-range:\s*([^\r\n]+)", head)
        found.append((named[1].decode() if named else "", content.removesuffix(b"\r\n")))
    return found


async def parts_first(site: Site, both: Both, tally: Tally, target: str, plan: Sequence[str]) -> None:
    """Of a target that nobody asked for yet: the ranges of `plan`, then the whole, twice."""
    whole = await both.origin.ask(target)
    if whole.status != 200 or len(whole.content) < LEAST_RANGED:
        return
    part = whole
    for asked in plan:
        question = {"Range": asked}
        part, other = await asyncio.gather(both.origin.ask(target, question), both.pop.ask(target, question))
        tally.check("Range before the whole", f"{target} {asked}", *range_problems(whole, part, other, asked))
    for _ in range(2):
        joined = await both.pop.ask(target)
        found = compare(whole, joined, site.moving).differences
        if found and not (joined_problems := _joined_problems(whole, part, joined)):
            tally.notes["whole joined from ranges, with the fields of a 206"] += 1
            found = joined_problems
        tally.check("whole after ranges", target, *found)


def _joined_problems(whole: Answer, part: Answer, joined: Answer) -> list[str]:
    """What is wrong with a whole that was joined from ranges: its bytes are the whole's, its fields a 206's."""
    found = [] if (joined.status, joined.content) == (whole.status, whole.content) else ["status or content"]
    lines = tuple(line for line in part.fields if line[0] not in ("content-range", "content-length"))
    return found + compare_fields(Answer(200, "OK", lines, whole.content, part.received), joined)[0]


# --- many at once ---------------------------------------------------------------------------------------------------


async def herds(site: Site, both: Both, tally: Tally) -> None:
    """A crowd asks for one target that nobody asked for yet: everyone gets the whole of it."""
    say(f"{site.name}: {CONNECTIONS} clients at once, for each of {len(site.herds)} targets")
    for target in site.herds:
        whole = await both.origin.ask(target)
        answers = await both.pop.crawl([target] * CONNECTIONS)
        for other in answers:
            tally.check(f"{CONNECTIONS} at once", target, *compare(whole, other, site.moving).differences)
        own_way = [one for one in answers if not is_hit(one) and "collapsed" not in (one.field("cache-status") or "")]
        if allowed(whole, 0.0).allowed is Allowed.HIT:
            found = [] if len(own_way) == 1 else [f"{len(own_way)} went to the origin"]
            tally.check(f"{CONNECTIONS} at once: one question", target, *found)
