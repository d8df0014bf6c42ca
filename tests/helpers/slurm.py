"""A Slurm cluster of two nodes on this machine, without systemd; needs root."""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
HOSTS = Path("/etc/hosts")
CONFIG = """\
ClusterName=picjax
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmctldPort={port}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdSpoolDir={folder}/spool-%n
StateSaveLocation={folder}/state
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
KillWait=5
SlurmdTimeout=10
SchedulerParameters=sched_interval=2,bf_interval=5
NodeName=n[1-2] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first}-{last}] CPUs=2
PartitionName=main Nodes=n[1-2] Default=YES State=UP
"""


def missing() -> str:
    """Why there can be no cluster here; empty if there can."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if os.geteuid():
        return "a Slurm cluster on one machine needs root"
    return f"apt-get install slurm-wlm munge: no {', '.join(absent)}" if absent else ""


class Cluster:
    """Two nodes, n1 and n2.

    Args:
      folder: of all of its files; every user may read it.
    """

    def __init__(self, folder: Path):
        self.folder, self.config = folder, folder / "slurm.conf"
        self.env = os.environ | {"SLURM_CONF": str(self.config)}
        (folder / "state").mkdir()
        port = 17000
        text = CONFIG.format(
            host=socket.gethostname(),
            folder=folder,
            port=port,
            first=port + 1,
            last=port + 2,
        )
        self.config.write_text(text)

    def run(self, *words: object) -> str:
        """Run a command of Slurm; its standard output."""
        command = [str(word) for word in words]
        return subprocess.run(
            command, env=self.env, check=True, stdout=subprocess.PIPE, text=True
        ).stdout

    def start(self) -> None:
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        files = {"key-file": key, "socket": self.folder / "munge.socket"}
        for name in ("pid", "log", "seed"):
            files[f"{name}-file"] = self.folder / f"munge.{name}"
        self.run("munged", "--force", *(f"--{k}={v}" for k, v in files.items()))
        self.run("slurmctld", "-c")
        for node in ("n1", "n2"):
            self.run("slurmd", "-N", node)
        wait_for(lambda: "2 idle" in self.run("sinfo", "-h", "-o", "%D %t"))

    def stop(self) -> None:
        names = ("slurmd-n1", "slurmd-n2", "slurmctld", "munge")
        paths = [self.folder / f"{name}.pid" for name in names]
        pids = [int(path.read_text()) for path in paths if path.exists()]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))

    def lose(self, node: str, pids: list[int]) -> None:
        """Kill a node's daemon, its supervisors and the tasks of a job."""
        daemon = int((self.folder / f"slurmd-{node}.pid").read_text())
        parents = [
            int(Path(f"/proc/{pid}/stat").read_text().split()[3]) for pid in pids
        ]
        for pid in (daemon, *parents, *pids):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def job(self, number: str, field: str) -> str:
        """A field of `scontrol show job`, such as JobState."""
        shown = self.run("scontrol", "show", "job", number).split()
        return next(w for w in shown if w.startswith(f"{field}=")).split("=", 1)[1]


def wait_for(condition: Callable[[], bool], seconds: int = 300) -> None:
    """Wait until a condition holds.

    Raises:
      TimeoutError: if it does not.
    """
    for _ in range(10 * seconds):
        if condition():
            return
        time.sleep(0.1)
    raise TimeoutError


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """A running cluster, whose nodes have names while it runs."""
    hosts = HOSTS.read_bytes()
    HOSTS.write_bytes(hosts + b"127.0.0.1 n1 n2\n")
    created = Cluster(folder)
    try:
        created.start()
        yield created
    finally:
        created.stop()
        HOSTS.write_bytes(hosts)
