"""Protocols: every file is sound, wrong names and values are refused, and settings come back from TOML."""

import json
import re
import tomllib
from importlib.resources import files

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import clicksim
from clicksim.errors import SettingError
from clicksim.protocols import (
    effective_settings,
    freeze_protocol,
    list_presets,
    list_protocols,
    load_protocol,
    protocol_facts,
    protocol_of,
)
from clicksim.protocols.protocol_settings import CLICKS, TABLES
from clicksim.settings import check_value, conditions_of, dump_table, parse_value

PROTOCOLS = list_protocols()
IDS = [protocol.id for protocol in PROTOCOLS]
ALLOWED = sorted([*IDS, *(preset.id for preset in list_presets())])
FILES = sorted(path.name for path in files("clicksim.protocols").iterdir() if path.name.endswith(".toml"))


def text_of(protocol):
    return files("clicksim.protocols").joinpath(f"{protocol.name}-{protocol.version}.toml").read_text(encoding="utf-8")


# the files


def test_list_protocols__has_every_file_by_name_and_version():
    assert {"autopet-iv@1", "autopet-iv@2", "longitudinal-ct@1", "deep-psma@1"} <= set(IDS)
    assert sorted(IDS) == IDS
    assert sorted(f"{p.name}-{p.version}.toml" for p in PROTOCOLS) == FILES


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=IDS)
def test_protocol__says_what_it_is(protocol):
    assert protocol.version >= 1
    assert protocol.title
    assert protocol.source
    assert protocol.notes
    assert all(note.endswith(".") for note in protocol.notes)
    content = tomllib.loads(text_of(protocol))
    assert set(content) == {"name", "version", "title", "source", "notes", *protocol.tables}


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=IDS)
def test_protocol__has_only_declared_settings_of_the_declared_kind(protocol):
    for table, settings in protocol.tables.items():
        assert set(settings) <= set(TABLES[table])
        raw = tomllib.loads(text_of(protocol))[table]
        assert json.dumps(settings) == json.dumps(raw)  # 5 and 5.0 are told apart


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=IDS)
def test_load_protocol__finds_each_by_its_id(protocol):
    assert load_protocol(protocol.id) is protocol


def test_settings__are_all_used_by_some_protocol_and_explained():
    for table, declared in TABLES.items():
        used = {name for protocol in PROTOCOLS for name in protocol.tables.get(table, ())}
        assert used == set(declared)
        for setting in declared.values():
            assert setting.meaning
            for other, values in setting.only_with.items():
                assert [check_value(other, declared[other], value) for value in values] == list(values)


# names


def test_load_protocol__names_the_nearest():
    with pytest.raises(SettingError, match="did you mean 'autopet-iv@1'"):
        load_protocol("autopet-iiv@1")


def test_load_protocol__wants_a_version():
    with pytest.raises(SettingError, match="needs a version: autopet-iv@1 or autopet-iv@2"):
        load_protocol("autopet-iv")


@pytest.mark.parametrize("name", ["", "@2", "autopet-iv@3", "Autopet-IV@2"])
def test_load_protocol__lists_what_there_is(name):
    with pytest.raises(SettingError, match=f"Allowed: {', '.join(ALLOWED)}$"):
        load_protocol(name)


def test_effective_settings__names_the_nearest_setting():
    with pytest.raises(SettingError, match="did you mean 'n_foreground'"):
        effective_settings(load_protocol("autopet-iv@2"), "clicks", {"n_forground": 3})


def test_effective_settings__names_the_nearest_choice():
    with pytest.raises(SettingError, match=r"did you mean 'deepest'\? Allowed: deepest, depth-weighted, rim, uniform"):
        effective_settings(load_protocol("autopet-iv@2"), "clicks", {"strategy": "deepst"})


def test_effective_settings__keeps_the_rule_of_the_protocol():
    with pytest.raises(SettingError, match="unknown setting 'rule' of autopet-iv@2"):
        effective_settings(load_protocol("autopet-iv@2"), "clicks", {"rule": "published"})


def test_effective_settings__refuses_the_setting_of_another_protocol():
    with pytest.raises(SettingError, match="unknown setting 'margin_mm' of autopet-iv@1"):
        effective_settings(load_protocol("autopet-iv@1"), "clicks", {"margin_mm": 3})


def test_effective_settings__says_which_protocols_have_a_rule():
    with pytest.raises(SettingError, match="no rule for rounds"):
        effective_settings(load_protocol("deep-psma@1"), "rounds", {})


# values


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("n_foreground", -1, "at least 0"),
        ("n_foreground", 100_001, "at most 100000"),
        ("n_foreground", 2.5, "whole number"),
        ("n_foreground", "3", "whole number"),
        ("n_foreground", True, "whole number"),
        ("n_foreground", None, "whole number"),
        ("n_foreground", float("nan"), "whole number"),
        ("n_foreground", 10**400, "whole number"),
        ("percentile", 100.5, "at most 100"),
        ("percentile", float("inf"), "must be a finite number"),
        ("suv", 10**400, "must be a number"),
        ("strategy", 3, "one of deepest"),
        ("strategy", "", "unknown strategy"),
        ("strategy", "none", "unknown strategy"),
        ("strategy", ["rim"], "one of deepest"),
        ("shell_mm", 5, "takes 2 numbers"),
        ("shell_mm", [5, 10, 20], "takes 2 numbers"),
        ("shell_mm", [20, 5], "must be in ascending order"),
        ("shell_mm", [5, "x"], "must be a number"),
        ("shell_mm", [-1, 5], "at least 0"),
        ("organ", [1.5], "whole number"),
        ("organ", [0], "at least 1"),
    ],
)
def test_check_value__refuses(name, value, reason):
    with pytest.raises(SettingError, match=reason):
        check_value(name, CLICKS[name], value)


@pytest.mark.parametrize("value", ["true", 1, 0, None])
def test_check_value__takes_no_number_for_a_truth(value):
    with pytest.raises(SettingError, match="true or false"):
        check_value("per_lesion", CLICKS["per_lesion"], value)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("n_foreground", 3.0, 3),
        ("n_foreground", np.int64(3), 3),
        ("suv", 4, 4.0),
        ("suv", np.float32(2.5), 2.5),
        ("per_lesion", np.bool_(True), True),
        ("organ", 5, [5]),
        ("organ", [], []),
        ("organ", np.array([5, 6]), [5, 6]),
        ("shell_mm", (5, 5), [5.0, 5.0]),
        ("strategy", "rim", "rim"),
    ],
)
def test_check_value__gives_plain_values_of_the_declared_kind(name, value, expected):
    found = check_value(name, CLICKS[name], value)
    assert json.dumps(found) == json.dumps(expected)


# effective settings


def test_effective_settings__puts_the_users_on_top():
    protocol = load_protocol("autopet-iv@2")
    settings, idle = effective_settings(protocol, "clicks", {"n_foreground": 3, "strategy": "rim"})
    assert settings == {**protocol.tables["clicks"], "n_foreground": 3, "strategy": "rim"}
    assert list(settings) == list(protocol.tables["clicks"])
    assert idle == []


def test_effective_settings__never_hands_out_the_protocols_own_lists():
    settings, _ = effective_settings(load_protocol("autopet-iv@2"), "clicks", {})
    settings["shell_mm"].append(99)
    settings["n_foreground"] = 99
    assert load_protocol("autopet-iv@2").tables["clicks"]["shell_mm"] == [5.0, 20.0]
    assert effective_settings(load_protocol("autopet-iv@2"), "clicks", {})[0]["n_foreground"] == 10


@pytest.mark.parametrize(
    ("given_", "words"),
    [
        ({"percentile": 99.0}, []),
        ({"percentile": 99.0, "background": "shell"}, ["percentile", "background is hot", "it is shell"]),
        ({"percentile": 99.0, "suv": 0}, []),
        ({"percentile": 99.0, "suv": 3}, ["percentile has no effect unless suv is 0; it is 3"]),
        ({"n_foreground": 3, "lesions": "volume"}, []),
        (
            {"n_foreground": 3, "lesions": "all"},
            ["n_foreground has no effect unless lesions is uniform or", "it is all"],
        ),
        ({"fill": "rim", "lesions": "all"}, ["fill", "it is all"]),
        ({"shell_mm": [1, 2]}, ["shell_mm", "background is shell", "it is hot"]),
        ({"background_fill": "rim", "background": "body"}, ["background_fill", "background is hot or", "it is body"]),
    ],
)
def test_effective_settings__tells_of_settings_without_effect(given_, words):
    _, idle = effective_settings(load_protocol("autopet-iv@2"), "clicks", given_)
    assert len(idle) == bool(words)
    assert all(word in " ".join(idle) for word in words)


@pytest.mark.parametrize("name", ["n_foreground", "n_background", "percentile", "center_offset", "edge_offset"])
def test_effective_settings__one_click_for_each_id_leaves_the_rest_without_effect(name):
    rule = load_protocol("longitudinal-ct@1")
    assert effective_settings(rule, "clicks", {name: 1})[1] == []
    _, idle = effective_settings(rule, "clicks", {name: 1, "per_lesion": True})
    assert idle == [f"{name} has no effect unless per_lesion is false; it is true"]


def test_conditions_of__are_those_that_the_rule_has():
    for protocol, others in (("autopet-iv@1", []), ("autopet-iv@2", ["background", "suv"])):
        assert list(conditions_of(CLICKS, "percentile", load_protocol(protocol).tables["clicks"])) == others


def test_effective_settings__a_setting_of_an_idle_setting_is_idle():
    rule = load_protocol("autopet-v@2")
    assert effective_settings(rule, "scribbles", {"trim": 0.2})[1] == []
    _, idle = effective_settings(rule, "scribbles", {"trim": 0.2, "kind": "click"})
    assert idle == ["trim has no effect unless kind is scribble; it is click"]


def test_effective_settings__refuses_a_shell_that_ends_before_it_begins():
    for protocol, table in (("autopet-iv@2", "clicks"), ("autopet-v@2", "scribbles")):
        with pytest.raises(SettingError, match=r"shell_mm must be in ascending order, got \[8.0, 2.0\]"):
            effective_settings(load_protocol(protocol), table, {"shell_mm": [8, 2], "background": "shell"})


# TOML


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=IDS)
def test_dump_table__comes_back_from_toml(protocol):
    for table in protocol.tables:
        settings, _ = effective_settings(protocol, table, {})
        back = tomllib.loads(dump_table(table, settings))
        assert json.dumps(back) == json.dumps({table: settings})


NUMBERS = st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = NUMBERS | st.booleans() | st.lists(NUMBERS, max_size=3) | st.text(max_size=5)


@given(st.dictionaries(st.sampled_from(list(CLICKS)), VALUES))
def test_dump_table__brings_every_value_back(values):
    assert json.dumps(tomllib.loads(dump_table("", values))) == json.dumps(values)
    assert tomllib.loads(dump_table("clicks", values))["clicks"] == values


def test_dump_table__writes_what_is_no_finite_number():
    back = tomllib.loads(dump_table("", {"never": -np.inf, "always": np.inf, "unknown": np.nan, "word": "-Infinity"}))
    assert repr(back) == "{'never': -inf, 'always': inf, 'unknown': nan, 'word': '-Infinity'}"


@given(VALUES.filter(lambda value: not isinstance(value, str)))
def test_parse_value__reads_what_toml_writes(value):
    assert json.dumps(parse_value(json.dumps(value))) == json.dumps(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("rim", "rim"),
        ('"rim"', "rim"),
        ("depth-weighted", "depth-weighted"),
        ("5,20", [5, 20]),
        ("rim,deepest", "rim,deepest"),
        ("[1, 2", "[1, 2"),
        ("1\nx=2", "1\nx=2"),
        ("", ""),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_parse_value__takes_bare_words_and_lists(text, value):
    assert parse_value(text) == value


# files of one's own


OWN = """
based_on = "autopet-iv@2"
title = "three clicks on the rim"

[clicks]
n_foreground = 3
strategy = "rim"
"""


@pytest.fixture
def own(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(OWN, encoding="utf-8")
    return file


def test_load_protocol__takes_a_file_on_top_of_a_protocol(own):
    protocol, base = load_protocol(str(own)), load_protocol("autopet-iv@2")
    assert protocol == load_protocol(own)
    assert protocol.tables["clicks"] == {**base.tables["clicks"], "n_foreground": 3, "strategy": "rim"}
    assert protocol.tables["score"] == base.tables["score"]
    assert protocol.title == "three clicks on the rim"
    assert re.fullmatch(r"mine\.toml#[0-9a-f]{12}", protocol.id)


def test_load_protocol__a_record_of_a_file_stands_for_the_file(own):
    protocol = load_protocol(own)
    facts = json.loads(json.dumps(protocol_facts(own)))
    own.write_text(OWN.replace("3", "4"), encoding="utf-8")
    assert protocol_of(facts) == protocol
    assert protocol_of(facts).id == protocol.id
    assert load_protocol(own).id != protocol.id
    assert freeze_protocol(protocol) is protocol
    assert protocol_facts("ritm") == {"protocol": "ritm"}
    assert protocol_of({"protocol": "autopet-v@1"}) == "autopet-v@1"
    back = tomllib.loads(dump_table("protocol", protocol.content))["protocol"]
    assert load_protocol(back) == protocol


def test_load_protocol__the_id_of_a_file_follows_its_settings_alone(own):
    before = load_protocol(own).id
    own.write_text("# a remark\n" + OWN.replace("three", "some"), encoding="utf-8")
    assert load_protocol(own).id == before
    copy = own.with_name("copy.toml")
    copy.write_text(OWN, encoding="utf-8")
    assert load_protocol(copy).id == before.replace("mine", "copy")


@pytest.mark.parametrize("protocol", [*PROTOCOLS, *list_presets()], ids=lambda p: p.id)
def test_load_protocol__takes_a_copy_of_every_file(protocol, tmp_path):
    folder = files("clicksim.protocols")
    name = f"{protocol.name}-{protocol.version}.toml" if protocol.version else f"presets/{protocol.name}.toml"
    file = tmp_path / "copy.toml"
    file.write_text(folder.joinpath(name).read_text(encoding="utf-8"), encoding="utf-8")
    assert load_protocol(file).tables == protocol.tables


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "needs a table of settings: [clicks], [scribbles], [score], [rounds]"),
        ("clicks = 3", "clicks of a protocol must be a table, got 3"),
        ("notes = 'one'", "notes of a protocol must be a list of texts"),
        ("[click]", "did you mean 'clicks'"),
        ("based_on = 'autopet-iv'", "needs a version"),
        ("based_on = 'other.toml'", "not a file"),
        ("[clicks]\nn_foreground = 3", "[clicks] needs rule (published, revised), or the file needs based_on"),
        ("[clicks]\nrule = 'revised'\nn_foreground = 3", "lacks n_background, lesions"),
        ("based_on = 'autopet-iv@2'\n[clicks]\nrule = 'published'", "leave it out"),
        ("[score]\nrule = 'revised'\nconnectivity = 18\niou = 0.1\nempty_truth = 'undefined'\n[clicks]", "needs rule"),
        (
            "[clicks]\nrule = 'published'\nn_foreground = 2\nn_background = 0\npercentile = 99\ncenter_offset = 0\n"
            "edge_offset = 0\nmargin_mm = 5",
            "has margin_mm, which the published rule does not read",
        ),
        ("based_on = 'autopet-iv@2'\n[clicks]\nn_forground = 3", "did you mean 'n_foreground'"),
        ("based_on = 'autopet-iv@2'\n[clicks]\nn_foreground = -3", "at least 0"),
        ("based_on = 'autopet-iv@2'\n[scribbles]\nn_components = 3", "[scribbles] needs rule"),
        ("clicks", "is not TOML"),
    ],
)
def test_load_protocol__refuses_a_file_and_names_it(text, words, tmp_path):
    file = tmp_path / "odd.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(SettingError) as caught:
        load_protocol(file)
    assert words in str(caught.value)
    assert str(file) in str(caught.value)


def test_load_protocol__refuses_a_file_that_is_not_there(tmp_path):
    with pytest.raises(SettingError, match="cannot read the protocol"):
        load_protocol(tmp_path / "none.toml")


def test_simulate_clicks__by_a_file_names_it(own):
    mask = np.zeros((9, 9, 9), np.uint8)
    mask[2:7, 2:7, 2:7] = 1
    prompts = clicksim.simulate_clicks(mask, spacing=(1, 1, 1), protocol=own)
    again = clicksim.simulate_clicks(mask, spacing=(1, 1, 1), n_foreground=3, strategy="rim")
    assert prompts.items == again.items
    assert prompts.protocol == load_protocol(own).id


def test_effective_settings__names_the_table_of_a_setting_and_lists_every_table():
    rule = load_protocol("autopet-v@2")
    with pytest.raises(SettingError, match=r"n_rounds is a setting of \[rounds\] of autopet-v@2"):
        effective_settings(rule, "scribbles", {"n_rounds": 3})
    with pytest.raises(SettingError, match=r"did you mean 'n_rounds'\? Allowed: \[scribbles\] strategy, .*\[rounds\]"):
        effective_settings(rule, "scribbles", {"n_round": 3})
