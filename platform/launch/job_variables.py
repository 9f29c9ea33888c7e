"""Variables that process managers set for the processes of one job, and what ranks get in their environment."""

from __future__ import annotations

import os

# What process managers tell the processes of one job. Their settings, such as OMPI_MCA_*, PMIX_MCA_*, HYDRA_* and
# OMPI_ALLOW_RUN_AS_ROOT, are the user's.
_PREFIXES_OF_A_JOB = (
    "HYDI_", "MPI_LOCAL",  # MPICH, Intel MPI
    "OMPI_COMM_WORLD_", "OMPI_WORLD_", "OMPI_APP_CTX_", "OMPI_MCA_ess_base_", "OMPI_MCA_orte_ess_",  # Open MPI
    "PMIX_SERVER_", "PMIX_BFROP_", "PMIX_GDS_", "PMIX_DSTORE_",
    "SLURM_STEP", "SLURM_PMIXP_", "SLURM_PMI2_",
)  # fmt: skip
_NAMES = """
PMI_RANK PMI_SIZE PMI_FD PMI_PORT PMI_ID PMI_KVS PMI_JOBID PMI_SPAWNED PMI_APPNUM PMI_UNIVERSE_SIZE
PMI_HOSTNAME PMI_PROCESS_MAPPING PMI_CONTROL_PORT PMI_CONTROL_FD PMI_LOCAL_RANK PMI_LOCAL_SIZE
PMI_SHARED_SECRET PMI2_FD OMPI_UNIVERSE_SIZE OMPI_NUM_APP_CTX OMPI_FIRST_RANKS OMPI_FILE_LOCATION OMPI_COMMAND
OMPI_ARGV OMPI_VERSION OMPI_TOOL_NAME OMPI_LIBDIR_LOC OMPI_MCA_PREFIXES OMPI_MCA_num_procs
OMPI_MCA_initial_wdir OMPI_MCA_cpu_type OMPI_MCA_orte_hnp_uri OMPI_MCA_orte_local_daemon_uri
OMPI_MCA_orte_jobid OMPI_MCA_orte_app_num OMPI_MCA_orte_launch OMPI_MCA_orte_bound_at_launch
OMPI_MCA_orte_precondition_transports OMPI_MCA_orte_num_nodes OMPI_MCA_mpi_oversubscribe
OMPI_MCA_shmem_RUNTIME_QUERY_hint PMIX_NAMESPACE PMIX_RANK PMIX_ID PMIX_VERSION PMIX_HOSTNAME
PMIX_SECURITY_MODE PMIX_SYSTEM_TMPDIR PMIX_KEEPALIVE_PIPE PMIX_PARAM_FILE_PASSED PRTE_LAUNCHED PRTE_SHARED_FS
SLURM_PROCID SLURM_LOCALID SLURM_NODEID SLURM_GTIDS SLURM_TASK_PID SLURM_SRUN_COMM_HOST SLURM_SRUN_COMM_PORT
SLURM_LAUNCH_NODE_IPADDR SLURM_PMI_FD SLURM_PMIX_MAPPING_SERV PALS_RANKID PALS_LOCAL_RANKID PALS_NODEID
PALS_APID PALS_APINFO PALS_FD PALS_STARTUP_BARRIER_FD PALS_SPOOL_DIR ALPS_APP_PE ALPS_APP_ID
"""
_VARIABLES_OF_A_JOB = frozenset(_NAMES.split())

# Defaults where the user has set nothing, in the names of Open MPI 5 and 4. It would refuse more ranks than cores, and
# bind each of two to one core, and MPICH does neither; and it would give other hosts hardly any of the environment.
# By slot, as the other mappings of Open MPI 5 put all ranks on the first host where oversubscription is allowed.
_DEFAULTS = {
    "PRTE_MCA_rmaps_default_mapping_policy": "slot:oversubscribe",
    "PRTE_MCA_prte_fwd_environment": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "OMPI_MCA_hwloc_base_binding_policy": "none",
    # Slurm's srun would let the other ranks wait for one that has died.
    "SLURM_KILL_BAD_EXIT": "1",
}


def rank_environment() -> dict[str, str]:
    """The ranks' environment: libraries must not start a thread per core before a rank knows its share of the cores."""
    return {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"} | _DEFAULTS | without_rank_variables()


def without_rank_variables() -> dict[str, str]:
    """This process's environment without the variables that make a child a rank of its parent's MPI job."""
    return {name: value for name, value in os.environ.items() if not is_rank_variable(name)}


def is_rank_variable(name: str) -> bool:
    """Whether an environment variable makes a process a rank of an MPI job."""
    return name in _VARIABLES_OF_A_JOB or name.startswith(_PREFIXES_OF_A_JOB)
