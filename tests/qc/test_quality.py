"""The expected Dice of a segmentation, against known probabilities, simulated truths and stored features of scans."""

from __future__ import annotations

import json
from math import nan
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from quality_fit import FITTED, area_under_roc, compare, fit, per_scan
from scipy.special import expit
from small_study import subjects_of, write_result

from midiff_monai.labels import FREESURFER_IDS, STRUCTURES
from midiff_monai.qc.flags import MIN_QUALITY, quality_flags
from midiff_monai.qc.measures import Measures
from midiff_monai.qc.page import write_study_page
from midiff_monai.qc.quality import NOT_SCORED, expected_quality, features, predict, quality_model, without_side
from midiff_monai.qc.soft_dice import soft_dice

SCANS = Path(__file__).resolve().parents[2] / "evaluation" / "results" / "quality" / "scans.csv"


def probabilities(shape: tuple[int, ...] = (6, 7, 8), classes: tuple[int, ...] = (0, 2, 3, 17)) -> torch.Tensor:
    """Random probabilities (33, X, Y, Z) of a few classes."""
    logits = torch.full((len(FREESURFER_IDS), *shape), -100.0)
    generator = torch.Generator().manual_seed(0)
    for label in classes:
        logits[FREESURFER_IDS.index(label)] = 2 * torch.randn(shape, generator=generator)
    return logits.softmax(dim=0)


def everywhere(shape: tuple[int, ...] = (6, 7, 8)) -> torch.Tensor:
    return torch.ones(shape, dtype=torch.bool)


class TestSoftDice:
    def test_agrees_with_the_definition(self) -> None:
        given = probabilities()
        labels = given.argmax(dim=0)
        found = soft_dice(given, everywhere())
        assert set(found) == {2, 3, 17}
        for label, value in found.items():
            index = FREESURFER_IDS.index(label)
            chosen, p = labels == index, given[index]
            assert value == pytest.approx(float(2 * p[chosen].sum() / (p.sum() + chosen.sum())), rel=1e-5)

    def test_is_full_where_there_is_no_doubt(self) -> None:
        sure = torch.zeros(len(FREESURFER_IDS), 4, 4, 4)
        sure[1] = 1
        assert soft_dice(sure, everywhere((4, 4, 4))) == {2: 1.0}

    def test_only_the_foreground_counts(self) -> None:
        known = everywhere()
        known[:3] = False
        assert soft_dice(probabilities(), known) == soft_dice(probabilities()[:, 3:], known[3:])

    def test_soft_dice_is_the_mean_dice_with_truths_drawn_from_the_probabilities(self) -> None:
        given = probabilities((20, 20, 20))
        labels, random = given.argmax(dim=0).flatten(), torch.Generator().manual_seed(1)
        found = soft_dice(given, everywhere((20, 20, 20)))
        draws = torch.multinomial(given.flatten(1).T, 20, replacement=True, generator=random)
        for label, value in found.items():
            chosen, true = labels == FREESURFER_IDS.index(label), draws == FREESURFER_IDS.index(label)
            dice = 2 * (chosen[:, None] & true).sum(dim=0) / (chosen.sum() + true.sum(dim=0))
            assert value == pytest.approx(float(dice.mean()), abs=0.01)


class TestExpectedQuality:
    @staticmethod
    def sure_of(soft_dice: float) -> dict[int, float]:
        return {structure.id: soft_dice for structure in STRUCTURES[1:]}

    def test_rises_with_the_confidence(self) -> None:
        scores = [expected_quality(self.sure_of(soft), 0.6).scan.dice for soft in (0.2, 0.5, 0.8, 0.9, 0.95)]
        assert scores == sorted(scores) and scores[0] < 0.2 and scores[-1] > 0.75

    def test_the_score_is_the_mean_of_the_structures_without_csf(self) -> None:
        quality = expected_quality(self.sure_of(0.9), 0.6)
        names = {structure.id: structure.name for structure in STRUCTURES}
        assert {names[label] for label in quality.structures} == {s.name for s in STRUCTURES[1:]} - {NOT_SCORED}
        assert quality.scan.dice == pytest.approx(np.mean([estimate.dice for estimate in quality.structures.values()]))

    def test_intervals_contain_the_score_and_lie_in_the_range_of_dice(self) -> None:
        for soft in (0.0, 0.3, 0.9, 1.0):
            quality = expected_quality(self.sure_of(soft), 0.6)
            for dice, low, high in (quality.scan, *quality.structures.values()):
                assert 0 <= low <= dice <= high <= 1

    def test_without_a_translation_the_edges_count_as_usual(self) -> None:
        usual = quality_model().edge_correlation
        assert expected_quality(self.sure_of(0.9), nan) == expected_quality(self.sure_of(0.9), usual)

    def test_nothing_found_is_no_quality(self) -> None:
        quality = expected_quality({}, nan)
        assert quality.scan.dice == 0 and not quality.structures

    def test_becomes_json(self) -> None:
        record = json.loads(json.dumps(expected_quality(self.sure_of(0.9), 0.6).to_dict()))
        assert record.keys() == {"score", "interval", "structures"}
        assert record["structures"]["Left-Hippocampus"].keys() == {"score", "interval"}

    @pytest.mark.parametrize(("quality", "flagged"), [(0.64, True), (0.66, False), (nan, False)])
    def test_a_low_score_is_flagged(self, quality: float, flagged: bool) -> None:
        assert [flag.kind for flag in quality_flags(Measures({}, {}, quality=quality))] == ["quality"] * flagged

    def test_the_model_knows_each_structure(self) -> None:
        names = {without_side(structure.name) for structure in STRUCTURES[1:]} - {NOT_SCORED}
        assert quality_model().intercepts.keys() == names


class TestFit:
    @staticmethod
    def rows(maps: int = 12) -> pd.DataFrame:
        """Scans whose Dice follow a known model, without noise."""
        random, rows = np.random.default_rng(0), []
        for number in range(maps):
            level, edge = random.uniform(-1, 3), random.uniform(0.2, 0.9)
            soft = expit(level + random.normal(scale=0.4, size=len(STRUCTURES) - 1))
            expected = expit(features(soft, edge) @ [0.8, 0.3, 0.5] - 1.5)
            about = {"source": FITTED, "scan": f"map{number:02d}-good", "fault": "good", "translated": True}
            for structure, value, dice in zip(STRUCTURES[1:], soft, expected, strict=True):
                known = {"structure": structure.name, "soft_dice": value, "dice": dice, "edge_correlation": edge}
                rows.append(about | known)
        return pd.DataFrame(rows)

    def test_finds_the_model_that_made_the_data(self) -> None:
        model = fit(self.rows())
        assert model.coefficients == pytest.approx([0.8, 0.3, 0.5], abs=0.05)
        assert list(model.intercepts.values()) == pytest.approx([-1.5] * len(model.intercepts), abs=0.05)
        assert model.scan_width < 0.03 and model.structure_width < 0.03

    def test_a_structure_that_is_missing_counts_in_the_true_mean_alone(self) -> None:
        rows = self.rows(2)
        model = fit(rows)
        rows.loc[rows["structure"] == "Left-Hippocampus", ["soft_dice", "dice"]] = 0.0
        compared = compare(model, rows)
        assert compared.loc[compared["structure"] == "Left-Hippocampus", "expected"].isna().all()
        others = compared[compared["structure"] != "Left-Hippocampus"]
        scans = per_scan(compared).set_index("scan")
        assert scans["expected"].to_dict() == pytest.approx(others.groupby("scan")["expected"].mean().to_dict())
        assert (scans["dice"] < others.groupby("scan")["dice"].mean()).all()

    def test_area_under_the_roc_counts_pairs(self) -> None:
        positive, score = pd.Series([True, False, True, False]), pd.Series([3.0, 2.0, 1.0, 0.0])
        assert area_under_roc(positive, score) == 0.75


def test_the_spoiled_scans_of_a_study_come_first() -> None:
    """Thirty scans that the model was not fitted on or fitted on, five of them useless, by their stored features."""
    rows = pd.read_csv(SCANS)
    scans = per_scan(compare(quality_model(), rows[rows["settings"] == "fast"]))
    good = scans[(scans["fault"] == "good") & (scans["dice"] > MIN_QUALITY)].head(25)
    spoiled = scans[(scans["fault"] != "good") & (scans["dice"] < MIN_QUALITY)].head(5)
    study = pd.concat([good, spoiled]).sort_values("expected")
    assert len(spoiled) == 5 and set(study["scan"].head(5)) == set(spoiled["scan"])


def test_the_study_page_shows_and_flags_the_quality(tmp_path: Path) -> None:
    write_result(tmp_path, "good", quality={"score": 0.8})
    write_result(tmp_path, "poor", quality={"score": 0.3})
    shown = subjects_of(write_study_page(tmp_path))
    assert {name: subject["scores"]["quality"] for name, subject in shown.items()} == {"good": 0.8, "poor": 0.3}
    flags = {name: [flag["kind"] for flag in subject["flags"]] for name, subject in shown.items()}
    assert "quality" in flags["poor"] and "quality" not in flags["good"]


def test_predictions_do_not_depend_on_the_order_of_the_structures() -> None:
    names, soft = [structure.name for structure in STRUCTURES[1:5]], np.array([0.9, 0.8, 0.7, 0.95])
    model = quality_model()
    forward, backward = predict(model, names, soft, 0.5), predict(model, names[::-1], soft[::-1], 0.5)
    np.testing.assert_allclose(forward, backward[::-1])
