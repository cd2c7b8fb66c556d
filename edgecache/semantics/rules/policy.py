"""The policy of a request: the combined effect of the rules of its site.

Which rules match may depend on anything in a request, but stored responses are shared. So each rule that influences
responses, and whose condition is not decided by the URL alone, is part of the cache key where it matches
(`RequestPolicy.group`): two requests that rules treat differently never share a stored response. A rule that only
admits or limits clients is not: it is checked for each of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final

from edgecache.semantics.bounded_cache import BoundedCache
from edgecache.semantics.cache_tags import BETWEEN_POPS, MARK, between_pops
from edgecache.semantics.content_coding import may_vary_by_coding, varying_by_coding
from edgecache.semantics.field_codec import pack, unpack
from edgecache.semantics.message import Response
from edgecache.semantics.rules.actions import NO_ACTIONS, NO_CACHING, NO_KEY, Actions
from edgecache.semantics.rules.conditions import (
    Condition,
    RequestFacts,
    ResponseFacts,
    Test,
    holds,
    reduced,
    tests_of,
    text_of,
)
from edgecache.semantics.rules.cors import allowed_origin, with_cors
from edgecache.semantics.rules.debug_fields import NO_TIMES, Times, with_debug_fields
from edgecache.semantics.rules.error_pages import ErrorPages
from edgecache.semantics.rules.security_headers import with_security_headers
from edgecache.semantics.rules.storing import governed
from edgecache.semantics.stored_response import Policy

MOST_POLICIES: Final = 4096  # combinations of rules, and of origins allowed, that are remembered, per site
MOST_VERDICTS: Final = 64  # of these by kinds of responses, each
NOT_MODIFIED: Final = 304


@dataclass(frozen=True, eq=False)
class Rule:
    """One rule. `text` identifies what it does: rules with equal texts treat all messages equally."""

    name: str
    condition: Condition
    actions: Actions
    text: str
    last: bool = False
    admits_only: bool = False  # all that it does is checked for each client, and changes no response

    @cached_property
    def tests(self) -> list[Test]:
        """The tests in its condition."""
        return tests_of(self.condition)

    @cached_property
    def keys(self) -> bool:
        """Whether it is a part of the cache key where it holds: it changes responses, or keeps later rules from it."""
        by_url = all(test.by_url or test.of_request is None for test in self.tests)
        return not by_url and (self.last or not self.admits_only)


@dataclass(frozen=True, eq=False)
class RequestPolicy:
    """The policy for a request. Equal combinations of rules are one object. Mutable state: `_by_verdicts`."""

    site: Site
    rules: tuple[str, ...]  # names of those that hold, or may hold once there is a response
    actions: Actions  # of those that the request decides
    group: bytes  # part of the cache key; empty where the URL alone decides
    held: tuple[tuple[Condition, Rule], ...]  # these rules in order, with what the response decides; True: nothing
    storing: Policy  # of the site, with what the actions say of storing
    allowed_origin: bytes = b""  # Access-Control-Allow-Origin of its responses, which may be stored ones of others
    _by_verdicts: dict[tuple[bool, ...], Actions] = field(default_factory=dict)

    @cached_property
    def pending(self) -> tuple[tuple[Condition, Rule], ...]:
        """Rules that the response decides."""
        return tuple((left, rule) for left, rule in self.held if left is not True)

    is_canary: bool = False  # its requests go to the pool of its canary, and its responses are for such clients only

    @cached_property
    def of_canary(self) -> RequestPolicy:
        """The same for a client in the share of the canary."""
        route = self.actions.route
        assert route.canary is not None, "the route has one"
        actions = replace(self.actions, route=replace(route, pool=route.canary.pool))
        group = b"\n".join((self.group, b"canary " + route.canary.pool.encode()))
        return replace(self, actions=actions, group=group, is_canary=True)

    def for_response(self, facts: ResponseFacts) -> Actions:
        """The actions of all rules that hold for the request with this response, later ones laid over earlier ones."""
        if not self.pending:
            return self.actions
        verdicts = tuple([holds(left, facts) for left, _ in self.held])
        actions = self._by_verdicts.get(verdicts)
        if actions is None:
            actions = self._joined(verdicts)
            if len(self._by_verdicts) < MOST_VERDICTS:
                self._by_verdicts[verdicts] = actions
        return actions

    def _joined(self, verdicts: tuple[bool, ...]) -> Actions:
        actions = NO_ACTIONS
        for verdict, (_, rule) in zip(verdicts, self.held, strict=True):
            if verdict:
                actions = rule.actions.over(actions)
                if rule.last:
                    break
        return actions

    @property
    def is_shared_by_all(self) -> bool:
        """Whether the URL alone is the cache key."""
        return not self.group and self.actions.key == NO_KEY and self.actions.caching.store is not False

    @cached_property
    def changes_fields(self) -> bool:
        """Whether any rule may change the fields of responses."""
        return any(_changes_fields(rule.actions) for _, rule in self.held)

    @cached_property
    def compresses(self) -> bool:
        """Whether any rule may have a response coded."""
        return any(rule.actions.compress is not None for _, rule in self.held)

    def delivered(
        self,
        status: int,
        result: str,
        fields: bytes,
        scheme: bytes = b"https",
        content_type: bytes = b"",
        times: Times = NO_TIMES,
    ) -> bytes:
        """The packed fields of a response as a client gets them; `result` of the look-up, as `hit`.

        A 304 gets the fields of the 200 that it stands for, whose `content_type` is given: a browser lays them over
        those that it has stored (RFC 9110 §15.4.5).
        """
        if not self.changes_fields:
            return fields
        edited = unpack(fields)
        content_type = content_type or edited.get(b"content-type") or b""
        actions = self.for_response(ResponseFacts(200 if status == NOT_MODIFIED else status, content_type, result))
        may_be_coded = result not in ("pass", "error")
        may_be_coded = may_be_coded and may_vary_by_coding(actions.compress, status, edited, content_type)
        edited = with_security_headers(edited, actions.security_headers, scheme)
        edited = actions.response_fields.applied(edited)
        if actions.cors is not None:
            edited = with_cors(edited, actions.cors, self.allowed_origin)
        if may_be_coded:
            edited = varying_by_coding(edited)
        return pack(with_debug_fields(edited, actions.debug, status, result, times) if actions.debug else edited)

    def received(self, response: Response, wildcard: bytes = b"") -> Response:
        """`response` from upstream as clients and the store get it, for a host of this wildcard, if it is of one."""
        caching = self.for_response(facts_of(response)).caching
        fields = response.fields
        if caching.ignore_set_cookie:
            fields = fields.without((b"set-cookie",))
        tags = (*caching.tags, MARK + wildcard) if wildcard else caching.tags
        if tags:
            told, more = fields.get(BETWEEN_POPS), between_pops(tags)
            fields = fields.without((BETWEEN_POPS,)).plus((BETWEEN_POPS, told + b" " + more if told else more))
        return self.governed(response if fields is response.fields else response._replace(fields=fields))

    def governed(self, response: Response) -> Response:
        """`response` with the freshness and the directives that rules give it."""
        caching = self.for_response(facts_of(response)).caching
        return response if caching == NO_CACHING else governed(caching, response)


def facts_of(response: Response) -> ResponseFacts:
    """What conditions read of a response that came from upstream."""
    return ResponseFacts(response.status, response.fields.get(b"content-type") or b"", "miss")


@dataclass(eq=False)
class Site:
    """One site and its rules. Mutable state: policies by the rules that match."""

    name: str
    rules: tuple[Rule, ...]
    storing: Policy
    pool: str = ""  # the name of its pool; empty: the origin of the settings
    own: dict[str, Any] = field(default_factory=dict)  # of middleware, by its name
    error_pages: ErrorPages | None = None
    memory_share: float | None = None  # of the memory of each worker; None: it has a part in what others leave
    signature_parameters: frozenset[bytes] = frozenset()  # of signed URLs: they are in no cache key
    counts: Any = None  # of its requests
    _policies: BoundedCache[bytes, RequestPolicy] = field(
        default_factory=lambda: BoundedCache(MOST_POLICIES, 1 << 62, lambda key, policy: 1)
    )

    _by_origin: BoundedCache[bytes, RequestPolicy] = field(
        default_factory=lambda: BoundedCache(MOST_POLICIES, 1 << 62, lambda key, policy: 1)
    )

    @cached_property
    def reads(self) -> frozenset[bytes]:
        """Request fields, in lower case, that decide which rules hold, or that the cache key has."""
        tests = [test for rule in self.rules for test in rule.tests]
        keyed = {name.lower() for rule in self.rules for name in rule.actions.key.headers}
        cookies = any(rule.actions.route.canary for rule in self.rules)
        device = any(rule.actions.key.device for rule in self.rules)
        more = keyed | ({b"cookie"} if cookies else set()) | ({b"user-agent"} if device else set())
        if any(rule.actions.cors is not None and rule.actions.cors.origins is not None for rule in self.rules):
            more |= {b"origin"}
        return frozenset(more).union(*(test.fields for test in tests))

    @cached_property
    def cookies(self) -> frozenset[str]:
        """Globs of the names of cookies that decide which rules hold, or that the cache key has."""
        tests = [test for rule in self.rules for test in rule.tests]
        keyed = frozenset(name for rule in self.rules for name in rule.actions.key.cookies)
        return keyed.union(*(test.cookies for test in tests))

    def policy_of(self, facts: RequestFacts) -> RequestPolicy:
        """The policy of a request."""
        hold: list[tuple[int, Condition]] = []
        for number, rule in enumerate(self.rules):
            left = reduced(rule.condition, facts)
            if left is not False:
                hold.append((number, left))
                if rule.last and left is True:
                    break
        mark = ";".join([f"{number}:{'' if left is True else text_of(left)}" for number, left in hold]).encode()
        policy = self._policies.get(mark)
        if policy is None:
            policy = self._new(hold)
            self._policies.remember(mark, policy)
        return policy if policy.actions.cors is None else self._for_origin(policy, mark, facts)

    def _for_origin(self, policy: RequestPolicy, mark: bytes, facts: RequestFacts) -> RequestPolicy:
        """`policy` for the origin of a request. What is stored is shared by all origins: the group is the same."""
        assert policy.actions.cors is not None, "a rule has it"
        allowed = allowed_origin(policy.actions.cors, facts.request.fields.get(b"origin"))
        if not allowed:
            return policy
        key = mark + b"\n" + allowed
        own = self._by_origin.get(key)
        if own is None:
            own = replace(policy, allowed_origin=allowed)
            self._by_origin.remember(key, own)
        return own

    def _new(self, hold: list[tuple[int, Condition]]) -> RequestPolicy:
        actions, group = NO_ACTIONS, []
        for number, left in hold:
            rule = self.rules[number]
            if left is True:
                actions = rule.actions.over(actions)
            if rule.keys:
                group.append(rule.text if left is True else f"{rule.text} if {text_of(left)}")
        held = tuple((left, self.rules[number]) for number, left in hold)
        names = tuple(rule.name for _, rule in held)
        edits = actions.request_fields
        unsent = frozenset(edits.remove).difference(name.lower() for name, _ in (*edits.set, *edits.add))
        storing = replace(self.storing, unsent=unsent) if unsent else self.storing
        return RequestPolicy(self, names, actions, "\n".join(group).encode(), held, storing)


def _changes_fields(actions: Actions) -> bool:
    """Whether `actions` may change the fields of a response as it is delivered."""
    preset = actions.security_headers not in (None, "off")
    added = (actions.cors, actions.compress)
    return bool(actions.response_fields) or any(one is not None for one in added) or preset or bool(actions.debug)
