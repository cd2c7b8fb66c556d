"""Geography: look-ups, whose address counts, what the origin is told, and answers that vary by it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from harness.origin import OriginDouble, ReceivedRequest, Reply
from harness.pop import Pop, running_pop
from hypothesis import given
from hypothesis import strategies as st
from mmdb_writer import MMDBWriter
from netaddr import IPSet

from edgecache.config.addresses import network, networks
from edgecache.config.settings import load
from edgecache.config.types import geo_overrides, geo_rules
from edgecache.proxy.geo_database import Geo, Overrides
from edgecache.semantics.client_address import UNKNOWN, client_address, plain_address, trust_of
from edgecache.semantics.errors import ConfigError
from edgecache.semantics.geo import CONTINENT_OF, NO_RULES, NOWHERE, Place, place_of
from edgecache.semantics.message import Fields

DATA = Path(__file__).parents[1] / "data" / "geo"
COUNTRY = str(DATA / "GeoIP2-Country-Test.mmdb")
CITY = str(DATA / "GeoLite2-City-Test.mmdb")
FRESH = ("Cache-Control", "max-age=60")
BY_COUNTRY = ("Vary", "Edgecache-Geo-Country")


def geo(path: str = "", overrides: str = "", rules: str = "", home: str = "home") -> Geo:
    """Geography as these settings make it."""
    return Geo(path, geo_overrides(overrides), geo_rules(rules), home)


def write_flat(path: Path, country: str) -> None:
    """A database in the flat schema in which all of 198.51.100.0/24 and 2001:db8::/32 is in `country`."""
    writer = MMDBWriter(6, "flat", ipv4_compatible=True)
    writer.insert_network(IPSet(["198.51.100.0/24", "2001:db8::/32"]), {"country_code": country})
    temporary = path.with_suffix(".new")
    writer.to_db_file(str(temporary))
    os.replace(temporary, path)


# --- look-ups


@pytest.mark.parametrize("path", [COUNTRY, CITY])
@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("81.2.69.160", Place("GB", "EU")),
        ("::ffff:81.2.69.160", Place("GB", "EU")),
        ("2001:218::1", Place("JP", "AS")),
        ("216.160.83.56", Place("US", "NA")),
        ("1.1.1.1", NOWHERE),
        ("fe80::1%eth0", NOWHERE),
        ("", NOWHERE),
        ("no address", NOWHERE),
    ],
)
def test_an_address_is_found_in_maxminds_test_databases(path: str, address: str, place: Place) -> None:
    """IPv4, IPv6, IPv4-mapped, absent, and what is no address."""
    assert geo(path).locate(address).place == place


@pytest.mark.parametrize(
    ("record", "place"),
    [
        ({"country": {"iso_code": "DE"}, "continent": {"code": "EU"}}, Place("DE", "EU")),
        ({"country_code": "DE", "continent_code": "EU"}, Place("DE", "EU")),
        ({"country": "de"}, Place("DE", "EU")),
        ({"country": "Germany", "country_code": "DE"}, Place("DE", "EU")),
        ({"registered_country": {"iso_code": "US"}}, Place("US", "NA")),
        ({"continent": {"code": "EU"}}, Place("", "EU")),
        ({"country": {"iso_code": "D\r"}, "continent": {"code": 7}}, NOWHERE),
        ({"country_code": "DEU"}, NOWHERE),
        ({"country": []}, NOWHERE),
        ("DE", NOWHERE),
        (None, NOWHERE),
    ],
)
def test_both_schemas_are_read_and_what_is_no_code_is_not(record: object, place: Place) -> None:
    """Values go into header fields: only two letters get there."""
    assert place_of(record) == place


def test_a_database_without_ipv6_knows_no_ipv6_address(tmp_path: Path) -> None:
    """It is absent, not an error."""
    writer = MMDBWriter(4, "flat")
    writer.insert_network(IPSet(["198.51.100.0/24"]), {"country_code": "DE"})
    writer.to_db_file(str(tmp_path / "v4.mmdb"))
    found = geo(str(tmp_path / "v4.mmdb"))
    assert found.locate("198.51.100.7").place.country == "DE"
    assert found.locate("2001:db8::1").place == NOWHERE


def test_a_changed_file_is_read_again_and_a_bad_one_leaves_the_last_in_use(tmp_path: Path) -> None:
    """What was remembered of the old one is forgotten."""
    path = tmp_path / "geo.mmdb"
    write_flat(path, "DE")
    found = geo(str(path))
    assert found.locate("198.51.100.7").place == Place("DE", "EU")
    assert not found.stale

    write_flat(path, "US")
    assert found.stale
    assert found.reload()
    assert found.locate("198.51.100.7").place == Place("US", "NA")
    assert found.locate("2001:db8::1").place == Place("US", "NA")

    path.write_bytes(path.read_bytes()[:100])  # cut short in place, under the reader
    assert not found.reload()
    assert (found.reload_failures, found.stale) == (1, False)
    assert found.locate("198.51.100.8").place == Place("US", "NA")

    path.unlink()
    assert not found.reload()
    assert found.locate("198.51.100.9").place == Place("US", "NA")


def test_without_a_database_everybody_is_at_home() -> None:
    """No error, one region."""
    location = geo(home="local").locate("81.2.69.160")
    assert location.place == NOWHERE
    assert location.lines == ((b"Edgecache-Geo-Region", b"local"),)


def test_the_longest_prefix_of_the_overrides_wins_over_the_database() -> None:
    """Of IPv4-mapped networks and addresses too."""
    found = geo(COUNTRY, "81.0.0.0/8=FR,81.2.69.0/24=DE,81.2.69.160=US,::ffff:81.2.70.0/120=CA,2001:218::/32=BR")
    countries = {
        address: found.locate(address).place.country
        for address in ("81.2.69.160", "::ffff:81.2.69.161", "81.2.70.1", "81.9.9.9", "2001:218::1", "216.160.83.56")
    }
    assert list(countries.values()) == ["US", "DE", "CA", "FR", "BR", "US"]
    assert found.locate("81.2.69.161").place.continent == "EU"


@given(
    st.dictionaries(st.tuples(st.integers(0, 255), st.integers(0, 32)), st.sampled_from(sorted(CONTINENT_OF))),
    st.integers(0, 255),
)
def test_overrides_agree_with_a_search_of_all_networks(blocks: dict[tuple[int, int], str], last: int) -> None:
    """For every table and address."""
    table = {}
    for (byte, length), country in blocks.items():
        number = (203 << 24 | byte) >> (32 - length) << (32 - length)
        table[network(f"{number >> 24}.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}/{length}")] = country
    address = network(f"203.0.0.{last}").network_address
    holding = [block for block in table if address in block]
    expected = table[max(holding, key=lambda block: block.prefixlen)] if holding else None
    found = Overrides(table).get(address)
    assert (found and found.country) == expected


def test_what_is_remembered_is_bounded() -> None:
    """However many addresses ask."""
    found = geo(COUNTRY)
    for number in range(40_000):
        found.locate(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert len(found._known) <= 16_384


def test_rules_go_by_country_then_continent_then_all_others() -> None:
    """The order in which they are written does not count."""
    rules = geo_rules("*=us,continent:EU=eu,country:GB=uk")
    assert rules.region_of(Place("GB", "EU")) == "uk"
    assert rules.region_of(Place("DE", "EU")) == "eu"
    assert rules.region_of(Place("JP", "AS")) == "us"
    assert rules.region_of(NOWHERE) == "us"
    assert NO_RULES.region_of(Place("GB", "EU")) == ""


# --- whose address counts

PROXIES = trust_of(networks("10.0.0.0/8,fd00::/8"))
CHAINS = [
    ("", "", "10.0.0.1"),
    ("", "203.0.113.9", "203.0.113.9"),
    ("", "198.51.100.66, 203.0.113.9, 10.0.0.7", "203.0.113.9"),
    ("", "203.0.113.9,,10.0.0.7,", "203.0.113.9"),
    ("", "203.0.113.9:4711", "203.0.113.9"),
    ("", "[2001:db8::9]:4711", "2001:db8::9"),
    ("", "2001:db8::9, ::ffff:10.0.0.7", "2001:db8::9"),
    ("", "::ffff:203.0.113.9", "203.0.113.9"),
    ("", "10.0.0.3, 10.0.0.2", "10.0.0.1"),
    ("", "203.0.113.9, unknown, 10.0.0.7", UNKNOWN),
    ("", "203.0.113.9 10.0.0.7", UNKNOWN),
    ("", "203.0.113.9, 999.1.1.1", UNKNOWN),
    ("", ", ".join(["203.0.113.9"] + ["10.0.0.2"] * 40), UNKNOWN),
    ("for=203.0.113.9", "", "203.0.113.9"),
    ('For="[2001:db8::9]:80";proto=https, for=10.0.0.7;by=10.0.0.1', "", "2001:db8::9"),
    ('for="198.51.100.66, for=203.0.113.9', "", "203.0.113.9"),
    ("for=_hidden", "", UNKNOWN),
    ("proto=http", "", UNKNOWN),
    ("for=203.0.113.9;for=198.51.100.66", "", UNKNOWN),
    ("for=203.0.113.9", "203.0.113.9", "203.0.113.9"),
    ("for=10.0.0.2", "203.0.113.9", "203.0.113.9"),
    ("for=198.51.100.66", "203.0.113.9", UNKNOWN),
]


def said(forwarded: str, plain: str) -> Fields:
    """The fields that say so."""
    lines = [(b"Forwarded", forwarded.encode()), (b"X-Forwarded-For", plain.encode())]
    return Fields(line for line in lines if line[1])


@pytest.mark.parametrize(("forwarded", "plain", "client"), CHAINS)
def test_a_trusted_proxys_word_is_followed_to_the_first_that_is_not_trusted(
    forwarded: str, plain: str, client: str
) -> None:
    """From right to left; where the trail is lost or two trails part, nobody is named."""
    assert client_address("10.0.0.1", said(forwarded, plain), PROXIES) == client
    assert client_address("::ffff:10.0.0.1", said(forwarded, plain), PROXIES).removeprefix("::ffff:") == client


@pytest.mark.parametrize(("forwarded", "plain", "client"), CHAINS)
def test_nobody_elses_word_is_believed(forwarded: str, plain: str, client: str) -> None:
    """A spoofed field changes nothing."""
    assert client_address("203.0.113.200", said(forwarded, plain), PROXIES) == "203.0.113.200"


@given(st.lists(st.sampled_from(["10.0.0.2", "203.0.113.9", "x", "2001:db8::1"]), max_size=6))
def test_what_a_client_writes_to_the_left_of_its_own_address_never_counts(forged: list[str]) -> None:
    """The proxy appended the client's address: whatever stands before it."""
    fields = said("", ", ".join([*forged, "198.51.100.1"]))
    assert client_address("10.0.0.1", fields, PROXIES) == "198.51.100.1"


def test_mapped_addresses_are_the_ipv4_addresses() -> None:
    """As peers, as networks, as trusted ones."""
    assert plain_address("::ffff:203.0.113.9") == "203.0.113.9"
    assert plain_address("2001:db8::1") == "2001:db8::1"
    assert networks("::ffff:10.0.0.0/104") == networks("10.0.0.0/8")
    assert trust_of(networks("::ffff:10.0.0.0/104"))("10.1.2.3")
    assert PROXIES("::ffff:10.1.2.3")
    assert not PROXIES("::ffff:11.1.2.3")
    assert not PROXIES("")


# --- what the origin is told, and Vary


def countries(request: ReceivedRequest) -> Reply:
    """The fields of geography that the origin got, as the body; storable, and varying by country."""
    got = [request.get(f"Edgecache-Geo-{name}") or "-" for name in ("Country", "Continent", "Region")]
    return Reply(200, [FRESH, BY_COUNTRY], " ".join(got).encode())


BEHIND_A_PROXY = {
    "trusted_proxies": "127.0.0.0/8",
    "geo_db": COUNTRY,
    "geo_rules": "continent:EU=eu,*=us",
    "region": "here",
}
BRITON, AMERICAN, NOBODY = "81.2.69.160", "216.160.83.56", "192.0.2.1"


async def seen_from(pop: Pop, address: str, *fields: tuple[str, str], target: str = "/") -> str:
    """What a client at `address` gets, on a connection of its own."""
    response = await pop.get(target, ("X-Forwarded-For", address), *fields)
    assert response.status == 200
    return response.body.decode()


async def test_the_origin_is_told_the_place_and_answers_vary_by_it(origin: OriginDouble) -> None:
    """Each country its own answer, out of the cache the second time, whatever the client says of itself."""
    origin.otherwise(countries)
    forged = (("Edgecache-Geo-Country", "FR"), ("edgecache-geo-region", "evil"), ("Edgecache_Geo_Country", "IT"))
    async with running_pop(origin, **BEHIND_A_PROXY) as pop:
        for _ in range(4):
            for lie in ((), forged):
                assert await seen_from(pop, BRITON, *lie) == "GB EU eu"
                assert await seen_from(pop, AMERICAN, *lie) == "US NA us"
                assert await seen_from(pop, NOBODY, *lie) == "- - us"
    assert len(origin.requests) == 3


async def test_a_known_head_answers_for_its_own_country_only(origin: OriginDouble, tmp_path: Path) -> None:
    """Identical bytes on one connection: another country after a reload gets another answer."""
    path = tmp_path / "geo.mmdb"
    writer = MMDBWriter(6, "flat", ipv4_compatible=True)
    writer.insert_network(IPSet(["127.0.0.1/32"]), {"country_code": "DE"})
    writer.to_db_file(str(path))
    origin.otherwise(countries)
    async with running_pop(origin, geo_db=path) as pop, pop.client() as client:
        got = []
        for turn in range(8):
            if turn == 5:
                writer = MMDBWriter(6, "flat", ipv4_compatible=True)
                writer.insert_network(IPSet(["127.0.0.1/32"]), {"country_code": "US"})
                writer.to_db_file(str(tmp_path / "next"))
                os.replace(tmp_path / "next", path)
                assert pop.worker._locator.geo.reload()
            await client.request("GET", "/", ())
            got.append((await client.response()).body.decode()[:2])
        assert got == ["DE"] * 5 + ["US"] * 3
        assert pop.worker.watch.requests.known_hits >= 2, "the fast path was not tried"


async def test_identical_bytes_through_two_proxies_get_each_its_own_answer(origin: OriginDouble) -> None:
    """A head without Forwarded: the peers' own places count."""
    origin.otherwise(countries)
    overrides = "127.0.0.1=DE,127.0.0.2=US"
    async with running_pop(origin, geo_overrides=overrides) as pop:
        for _ in range(4):
            for source, country in (("127.0.0.1", "DE"), ("127.0.0.2", "US")):
                client = await pop.open(source=source)
                await client.request("GET", "/", ())
                assert (await client.response()).body.decode()[:2] == country
                client.close()
    assert len(origin.requests) == 2


async def test_a_passed_through_answer_is_told_the_place_of_each_client(origin: OriginDouble) -> None:
    """The memo of questions to the origin is by place too."""
    origin.otherwise(lambda request: Reply(200, [("Cache-Control", "no-store")], countries(request).body))
    async with running_pop(origin, **BEHIND_A_PROXY) as pop:
        for _ in range(5):
            assert await seen_from(pop, BRITON) == "GB EU eu"
            assert await seen_from(pop, AMERICAN) == "US NA us"


async def test_variants_by_place_are_bounded(origin: OriginDouble) -> None:
    """Every country of the world asks: the URL keeps as many variants as it may."""
    origin.otherwise(countries)
    listed = sorted(CONTINENT_OF)[:40]
    overrides = ",".join(f"198.51.100.{number}={country}" for number, country in enumerate(listed))
    async with running_pop(origin, trusted_proxies="127.0.0.1", geo_overrides=overrides, max_variants="8") as pop:
        for number, country in enumerate(listed):
            assert (await seen_from(pop, f"198.51.100.{number}"))[:2] == country
        slot = next(iter(pop.worker.edge.memory._slots.values()))
        assert len(slot.by_values) == 8


async def test_without_geography_nothing_is_sent_and_what_clients_say_is_dropped(origin: OriginDouble) -> None:
    """Headers of our own name never come from outside."""
    origin.otherwise(countries)
    async with running_pop(origin) as pop:
        assert await seen_from(pop, BRITON, ("Edgecache-Geo-Country", "FR")) == "- - -"


async def test_the_address_of_a_spoofer_is_its_own(origin: OriginDouble) -> None:
    """Neither field changes anything where nobody is trusted."""
    origin.otherwise(countries)
    async with running_pop(origin, geo_db=COUNTRY, geo_overrides="127.0.0.1=DE") as pop:
        for field in (("X-Forwarded-For", BRITON), ("Forwarded", f"for={BRITON}"), ("X-Real-IP", BRITON)):
            assert (await pop.get("/", field)).body == b"DE EU local"


# --- settings


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("GEO_DB", "/nowhere.mmdb", "cannot be read"),
        ("GEO_DB", __file__, "is not a database"),
        ("GEO_OVERRIDES", "198.51.100.0/24", "not name=value"),
        ("GEO_OVERRIDES", "198.51.100.1/24=DE", "has host bits set"),
        ("GEO_OVERRIDES", "198.51.100.0/24=Germany", "not a country code"),
        ("GEO_OVERRIDES", "10.0.0.0/8=DE,::ffff:10.0.0.0/104=US", "twice"),
        ("GEO_RULES", "country:DE=eu,country:DE=us", "two rules for country:DE"),
        ("GEO_RULES", "*=eu,*=us", "two rules for *"),
        ("GEO_RULES", "continent:XX=eu", "which is not"),
        ("GEO_RULES", "country:*=eu", "which is not"),
        ("GEO_RULES", "*:DE=eu", "which is not"),
        ("GEO_RULES", "DE=eu", "which is not"),
        ("GEO_RULES", "country:DE=e u", "is not 1 to 64"),
        ("PROXY_PROTOCOL", "on", "EDGECACHE_TRUSTED_PROXIES is empty"),
    ],
)
def test_a_bad_setting_refuses_the_start(name: str, value: str, words: str) -> None:
    """In one line that names the variable."""
    with pytest.raises(ConfigError) as caught:
        load({"EDGECACHE_ORIGIN": "http://localhost:1", f"EDGECACHE_{name}": value})
    assert words in str(caught.value)
    assert str(caught.value).startswith(f"EDGECACHE_{name}: ")
    assert "\n" not in str(caught.value)
