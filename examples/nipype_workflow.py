"""Segment scans in a Nipype workflow, and write the volumes of all of them into one table.

    python examples/nipype_workflow.py sub-01_PDw.nii.gz sub-02_PDw.nii.gz -o work --processes 2

`Segment` is an interface for workflows of your own: its outputs are the files of `midiff segment`. Nipype skips what is
done, and runs the nodes on several processes, or through SLURM with `workflow.run(plugin="SLURM")`. Needs `nipype`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from nipype import Function, MapNode, Node, Workflow
from nipype.interfaces.base import CommandLine, CommandLineInputSpec, File, TraitedSpec, traits

from midiff_monai.io.outputs import output_paths


class SegmentInputs(CommandLineInputSpec):
    """The scan, and options of `midiff segment`. `args` takes any other option."""

    in_file = File(exists=True, mandatory=True, argstr="%s", position=0, desc="volume")
    out_dir = traits.Str(".", usedefault=True, argstr="--output %s", desc="folder for the results")
    modality = traits.Str(argstr="--modality %s", desc="preprocessing overlay, such as CT")
    no_translate = traits.Bool(argstr="--no-translate", desc="the scan is a T1w")
    fast = traits.Bool(argstr="--fast", desc="compute at 2 mm only")
    seed = traits.Int(argstr="--seed %d", desc="seed of the noise")
    device = traits.Str(argstr="--device %s", desc="cpu, cuda, cuda:1 …")


class SegmentOutputs(TraitedSpec):
    """The results, named after the roles of `midiff_monai.io.outputs`."""

    segmentation = File(exists=True, desc="label map on the grid of the scan")
    synthetic = File(desc="synthetic T1w; undefined with no_translate")
    volumes = File(exists=True, desc="volume of each structure in millilitres")
    qc_image = File(exists=True, desc="picture for quality control")
    report = File(exists=True, desc="run manifest")


class Segment(CommandLine):
    """`midiff segment` of one volume: `Segment(in_file="scan_PDw.nii.gz", seed=0).run()`."""

    _cmd = "midiff segment"
    input_spec = SegmentInputs
    output_spec = SegmentOutputs

    def _list_outputs(self) -> dict[str, Any]:
        paths = output_paths(Path(self.inputs.in_file), Path(self.inputs.out_dir).absolute())
        outputs = self.output_spec().get()
        written = {role: getattr(paths, role) for role in outputs}
        return outputs | {role: str(path) for role, path in written.items() if path.is_file()}


def join_volumes(scans: list[str], tables: list[str]) -> str:
    """Join the tables of volumes: one row for each scan, one column for each structure, in millilitres."""
    from pathlib import Path  # Nipype runs the text of a function by itself

    import pandas as pd

    volumes = {
        scan: pd.read_csv(table).set_index("name")["volume_ml"] for scan, table in zip(scans, tables, strict=True)
    }
    path = Path("volumes.csv").absolute()
    pd.DataFrame(volumes).T.rename_axis("scan").to_csv(path)
    return str(path)


def make_workflow(scans: list[Path], folder: Path, **options: Any) -> Workflow:
    """A workflow that segments scans and joins their volumes. `options` are inputs of `Segment`."""
    names = [str(scan.absolute()) for scan in scans]
    segment = MapNode(Segment(**options), iterfield=["in_file"], name="segment")
    segment.inputs.in_file = names
    volumes = Node(Function(function=join_volumes, output_names=["table"]), name="volumes")
    volumes.inputs.scans = names
    workflow = Workflow(name="midiff", base_dir=str(folder.absolute()))
    workflow.connect(segment, "volumes", volumes, "tables")
    return workflow


def main() -> None:
    """Run the workflow and print the path of the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans", nargs="+", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the workflow")
    parser.add_argument("--processes", type=int, default=1, help="scans at once (default: %(default)s)")
    parser.add_argument("--no-translate", action="store_true", help="the scans are T1w")
    parser.add_argument("--fast", action="store_true", help="compute at 2 mm only")
    arguments = parser.parse_args()
    workflow = make_workflow(
        arguments.scans, arguments.output, no_translate=arguments.no_translate, fast=arguments.fast
    )
    graph = workflow.run(plugin="MultiProc", plugin_args={"n_procs": arguments.processes})
    (table,) = (node.result.outputs.table for node in graph.nodes if node.name == "volumes")
    print(table)


if __name__ == "__main__":
    main()
