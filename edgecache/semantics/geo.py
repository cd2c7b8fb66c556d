"""Countries, continents and regions: locations, and the region that serves each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from edgecache.semantics.message import FieldLine

CODE: Final = re.compile(r"[A-Z]{2}", re.ASCII)
CONTINENTS: Final = {  # ISO 3166-1 alpha-2, as the databases assign them
    "AF": "AO BF BI BJ BW CD CF CG CI CM CV DJ DZ EG EH ER ET GA GH GM GN GQ GW KE KM LR LS LY MA MG ML MR MU MW MZ "
    "NA NE NG RE RW SC SD SH SL SN SO SS ST SZ TD TG TN TZ UG YT ZA ZM ZW",
    "AN": "AQ BV GS HM TF",
    "AS": "AE AF AM AZ BD BH BN BT CC CN CX CY GE HK ID IL IN IO IQ IR JO JP KG KH KP KR KW KZ LA LB LK MM MN MO MV "
    "MY NP OM PH PK PS QA SA SG SY TH TJ TM TR TW UZ VN YE",
    "EU": "AD AL AT AX BA BE BG BY CH CZ DE DK EE ES FI FO FR GB GG GI GR HR HU IE IM IS IT JE LI LT LU LV MC MD ME "
    "MK MT NL NO PL PT RO RS RU SE SI SJ SK SM UA VA XK",
    "NA": "AG AI AW BB BL BM BQ BS BZ CA CR CU CW DM DO GD GL GP GT HN HT JM KN KY LC MF MQ MS MX NI PA PM PR SV SX "
    "TC TT US VC VG VI",
    "OC": "AS AU CK FJ FM GU KI MH MP NC NF NR NU NZ PF PG PN PW SB TK TL TO TV UM VU WF WS",
    "SA": "AR BO BR CL CO EC FK GF GY PE PY SR UY VE",
}
CONTINENT_OF: Final = {
    country: continent for continent, countries in CONTINENTS.items() for country in countries.split()
}
GEO_FIELDS: Final = frozenset((b"edgecache-geo-country", b"edgecache-geo-continent", b"edgecache-geo-region"))


class Place(NamedTuple):
    """The location of a client: ISO 3166-1 country, two-letter continent; empty if unknown."""

    country: str = ""
    continent: str = ""


NOWHERE: Final = Place()


def place_of(record: object) -> Place:
    """What a database's record says, in either schema: `country.iso_code` (MaxMind), or flat `country_code`."""
    if not isinstance(record, dict):
        return NOWHERE
    country = _code(record, "country", "iso_code", "country_code") or _code(record, "registered_country", "iso_code")
    continent = _code(record, "continent", "code", "continent_code") or CONTINENT_OF.get(country, "")
    return Place(country, continent)


def _code(record: Mapping[str, object], name: str, inner: str, flat: str = "") -> str:
    """A two-letter code: `record[name][inner]`, `record[flat]` or `record[name]`; empty if there is none."""
    nested = record.get(name)
    for value in (nested.get(inner) if isinstance(nested, dict) else nested, record.get(flat)):
        if isinstance(value, str) and CODE.fullmatch(value.upper()):
            return value.upper()
    return ""


class GeoRules(NamedTuple):
    """Regions by client country, else by continent, else for all others; empty where no rule matches."""

    countries: Mapping[str, str]
    continents: Mapping[str, str]
    otherwise: str = ""

    def region_of(self, place: Place) -> str:
        """The region that serves clients at `place`; empty if no rule names it."""
        by_country = self.countries.get(place.country)
        return by_country or self.continents.get(place.continent) or self.otherwise

    @property
    def regions(self) -> frozenset[str]:
        """Every region that a rule names."""
        return frozenset((*self.countries.values(), *self.continents.values(), self.otherwise)) - {""}


NO_RULES: Final = GeoRules({}, {})


def geo_lines(place: Place, region: str) -> tuple[FieldLine, ...]:
    """Request fields with the client's place, one for each known detail."""
    lines = (
        (b"Edgecache-Geo-Country", place.country.encode()),
        (b"Edgecache-Geo-Continent", place.continent.encode()),
        (b"Edgecache-Geo-Region", region.encode()),
    )
    return tuple(line for line in lines if line[1])
