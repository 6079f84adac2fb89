#!/usr/bin/env bash
# A SLURM of one host for tests: needs root and Debian's packages (installed where missing), but no
# systemd, no cgroups, no network beyond loopback, no accounting.
#   slurm_lab.sh up     starts it and prints lines for `eval`: export SLURM_CONF=…
#   slurm_lab.sh down   ends the daemons that `up` started, and no others
# SLURM_LAB names its folder, SLURM_LAB_PORT the first of its two ports.
# The partition `urgent` preempts jobs of `main`, which are requeued.
set -euo pipefail

lab=${SLURM_LAB:-/var/tmp/vidrec-slurm-lab}
port=${SLURM_LAB_PORT:-17817}
host=$(hostname -s)
cd /

fail() { echo "slurm_lab: $*" >&2; exit 1; }

install_packages() {
  for program in munged slurmctld slurmd sbatch; do
    command -v "$program" >/dev/null && continue
    [ "$(id -u)" = 0 ] || fail "$program is missing, and only root can install it"
    command -v apt-get >/dev/null || fail "$program is missing, and this is no Debian"
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq update >&2 || fail "apt-get update failed"
    apt-get -qq install -y --no-install-recommends munge slurmctld slurmd slurm-client \
      >"$lab/install.log" 2>&1 || fail "installation failed, see $lab/install.log"
    return
  done
}

configure() {
  cat >"$lab/slurm.conf" <<CONF
ClusterName=vidreclab
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=root
AuthType=auth/munge
CredType=cred/munge
# A requeued job waits until its credential has expired: 120 s unless told (5 is the least).
AuthInfo=socket=$lab/munge/socket,cred_expire=5
StateSaveLocation=$lab/state
SlurmdSpoolDir=$lab/spool
SlurmctldPidFile=$lab/pids/slurmctld
SlurmdPidFile=$lab/pids/slurmd
SlurmctldLogFile=$lab/slurmctld.log
SlurmdLogFile=$lab/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MpiDefault=none
SwitchType=switch/none
MailProg=/bin/true
# Decisions at once, not by the minute.
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
KillWait=5
ReturnToService=2
# The node may claim more processors than the machine has.
SlurmdParameters=config_overrides
NodeName=$host NodeAddr=127.0.0.1 Port=$((port + 1)) CPUs=4 RealMemory=2000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=60
PartitionName=urgent Nodes=ALL State=UP PriorityTier=9 PreemptMode=OFF
CONF
}

start() {
  [ "$(id -u)" = 0 ] || fail "only root can start slurmd"
  [ -f "$lab/munge/key" ] || (umask 077 && head -c 1024 /dev/urandom >"$lab/munge/key")
  munged --force --key-file="$lab/munge/key" --socket="$lab/munge/socket" \
    --seed-file="$lab/munge/seed" --log-file="$lab/munge/log" --pid-file="$lab/pids/munged" \
    >&2 2>/dev/null || fail "munged did not start, see $lab/munge/log"
  slurmctld -c -f "$SLURM_CONF" >&2 # -c: nothing is remembered of an earlier lab
  slurmd -f "$SLURM_CONF" >&2
  for _ in $(seq 100); do
    timeout 5 srun -t 1 true 2>/dev/null && return
    sleep 0.3
  done
  fail "it did not come up, see $lab/slurmctld.log and $lab/slurmd.log"
}

# Jobs first: the steps of a job outlive the daemons and would wait for them.
end_jobs() {
  timeout 3 scancel -p main 2>/dev/null && timeout 3 scancel -p urgent 2>/dev/null || return 0
  for _ in $(seq 60); do
    [ -z "$(timeout 3 squeue -h 2>/dev/null)" ] && return
    sleep 0.3
  done
}

stop() {
  local file pid
  [ -f "$lab/pids/slurmctld" ] && end_jobs
  for file in "$lab"/pids/*; do
    [ -f "$file" ] || continue
    pid=$(cat "$file")
    # The number may be another program's by now.
    if [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$(basename "$file")" ]; then
      kill "$pid"
      for _ in $(seq 100); do [ -d "/proc/$pid" ] || break; sleep 0.1; done
    fi
    rm -f "$file"
  done
}

export SLURM_CONF=$lab/slurm.conf
case ${1:-} in
  up)
    mkdir -p "$lab"/{munge,pids,spool,state}
    chmod 755 "$lab"; chmod 700 "$lab/munge"
    install_packages
    stop
    trap '[ $? = 0 ] || stop' EXIT # no daemon stays behind a lab that did not come up
    configure
    start
    echo "export SLURM_CONF=$SLURM_CONF"
    ;;
  down) stop ;;
  *) fail "should be called with up or down" ;;
esac
