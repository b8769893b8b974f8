"""Layer Render: the command `python -m ops render`, which needs neither network nor engine."""

# ruff: noqa: T201 - a command prints
from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

import yaml

import config
from components.layers import plans
from config.tree import why_not_written
from ops.render import difference, facts, packages, rendering

if TYPE_CHECKING:
    from config.charts import ChartPlan
    from config.settings import Settings


class UsageError(Exception):
    """The command was asked for what there is not."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; gives its exit status: 0, or 1 with what is wrong on stderr."""
    options = parser().parse_args(arguments)
    try:
        settings = config.load_file(options.stack_file)
        return _run(options, settings)
    except (
        config.SettingsError,
        UsageError,
        facts.FactsError,
        packages.PackageError,
        rendering.RenderError,
    ) as error:
        print(error, file=sys.stderr)
    except OSError as error:
        print(why_not_written(error), file=sys.stderr)
    return 1


def _run(options: argparse.Namespace, settings: Settings) -> int:
    planned = plans(settings)
    match options.command:
        case "show":
            for plan in [_one(planned, options.chart)] if options.chart else planned:
                found = rendering.package(plan)
                print(
                    f"# chart {plan.chart} {plan.version} from {found.path.name} ({found.source})"
                )
                print(rendering.text(plan, settings.kubernetes.version))
        case "objects":
            plan = _one(planned, options.chart)
            made = rendering.objects(rendering.text(plan, settings.kubernetes.version))
            named = rendering.in_namespace(made, plan.namespace)
            print(yaml.safe_dump_all(named, sort_keys=False))
        case "diff":
            print(_difference(_one(planned, options.chart), options.to, settings))
        case "check":
            problems = facts.problems(planned)
            for problem in problems:
                print(problem, file=sys.stderr)
            if problems:
                return 1
            print(f"{options.stack_file}: {len(planned)} charts know all keys that are set")
        case _:
            print("\n".join(packages.renew([(one.chart, one.version) for one in planned])))
    return 0


def _one(planned: tuple[ChartPlan, ...], chart: str) -> ChartPlan:
    for plan in planned:
        if plan.chart == chart:
            return plan
    raise UsageError(
        f"chart {chart} is not one of this platform's: {', '.join(one.chart for one in planned)}"
    )


def _difference(plan: ChartPlan, version: str, settings: Settings) -> str:
    before = rendering.package(plan)
    after = rendering.package(plan, version)
    texts = [
        rendering.text(plan, settings.kubernetes.version, version=one)
        for one in (plan.version, version)
    ]
    old, new = (rendering.in_namespace(rendering.objects(text), plan.namespace) for text in texts)
    head = (
        f"{plan.chart} {plan.version} ({before.source}) -> {version} ({after.source}), "
        "with the same values, without labels that only carry the version"
    )
    return f"{head}\n{difference.compare(old, new).text()}"


def parser() -> argparse.ArgumentParser:
    """Describe the command's arguments."""
    made = argparse.ArgumentParser(
        prog="python -m ops render",
        description="What the charts make of this platform's values.",
    )
    made.add_argument(
        "--stack-file", default="Pulumi.prod.yaml", metavar="FILE", help="(Pulumi.prod.yaml)"
    )
    commands = made.add_subparsers(dest="command", required=True)
    show = commands.add_parser("show", help="print what a chart renders, or all of them")
    show.add_argument("chart", nargs="?", metavar="CHART")
    objects = commands.add_parser(
        "objects", help="print a chart's objects, each with its namespace: for `kubectl apply`"
    )
    objects.add_argument("chart", metavar="CHART")
    diff = commands.add_parser("diff", help="what another version of a chart would change")
    diff.add_argument("chart", metavar="CHART")
    diff.add_argument("to", metavar="VERSION", help="its package must be in .lab/charts")
    commands.add_parser("check", help="compare every key and value with what the charts accept")
    commands.add_parser("renew", help="renew ops/render/charts from the real charts' packages")
    return made
