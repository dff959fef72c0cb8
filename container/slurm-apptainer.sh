#!/bin/bash
# One SLURM task for each participant, in a container of Apptainer (or Singularity):
#
#   sbatch --array=1-$(ls -d BIDS_DIR/sub-*/ | wc -l) container/slurm-apptainer.sh midiff.sif BIDS_DIR OUT [OPTION …]
#
#SBATCH --job-name=midiff
#SBATCH --cpus-per-task=2
#SBATCH --mem=4G
#SBATCH --time=00:15:00
set -euo pipefail

image=$1
bids_dir=$(realpath "$2")
mkdir -p "$3"
out=$(realpath "$3")

participants=("$bids_dir"/sub-*/)
label=$(basename "${participants[SLURM_ARRAY_TASK_ID - 1]}")

# The folders keep their names within the container, so that the paths in the reports are true outside it as well.
apptainer run --containall --no-home --bind "$bids_dir:$bids_dir:ro" --bind "$out" \
    --env OMP_NUM_THREADS="$SLURM_CPUS_PER_TASK" \
    "$image" "$bids_dir" "$out" participant --participant-label "$label" "${@:4}"
