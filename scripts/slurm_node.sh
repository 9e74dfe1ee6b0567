#!/usr/bin/env bash
# A Slurm cluster of one node, with accounting, that lives in one folder: for tests of `launcher=submitit_slurm`.
#
#   scripts/slurm_node.sh up DIR       # as root; munged, mariadbd, slurmdbd, slurmctld and slurmd of its own, beside any others
#   export SLURM_CONF=DIR/slurm.conf   # from here on sbatch, squeue and sacct mean this cluster
#   scripts/slurm_node.sh down DIR     # ends these five processes; DIR stays, with their logs
#
# Debian 12 and later: apt-get install --no-install-recommends slurmctld slurmd slurm-client slurmdbd \
#   slurm-wlm-basic-plugins munge mariadb-server
# SLURM_PORT (16817) is the first of four local ports.
set -euo pipefail

die() {
    echo "slurm_node.sh: $*" >&2
    exit 1
}

# wait_for SECONDS WHAT COMMAND...: until the command succeeds.
wait_for() {
    local end=$((SECONDS + $1)) what=$2
    shift 2
    until timeout 10 "$@" >/dev/null 2>&1; do
        ((SECONDS < end)) || die "$what did not start; see the logs in $dir"
        sleep 0.2
    done
}

# Whether a process is there, and is not one that has ended and that nobody has asked for.
runs() {
    [[ -r /proc/$1/stat && $(cut -d ' ' -f 3 "/proc/$1/stat" 2>/dev/null) != Z ]]
}

[[ $# == 2 && ($1 == up || $1 == down) ]] || die "usage: slurm_node.sh up|down DIR"
action=$1
mkdir -p "$2"
dir=$(cd "$2" && pwd)
export SLURM_CONF=$dir/slurm.conf

if [[ $action == down ]]; then
    for daemon in slurmd slurmctld slurmdbd mariadbd munged; do
        [[ -s $dir/$daemon.pid ]] || continue
        pid=$(<"$dir/$daemon.pid")
        # A number may be somebody else's by now.
        if [[ $(cat "/proc/$pid/comm" 2>/dev/null) == "$daemon" ]]; then
            kill "$pid"
            for _ in {1..100}; do
                runs "$pid" || break
                sleep 0.1
            done
            ! runs "$pid" || kill -KILL "$pid"
        fi
        rm -f "$dir/$daemon.pid"
    done
    exit 0
fi

[[ $(id -u) == 0 ]] || die "only root can start slurmd for other users; run it as root"
for program in munged mariadbd mariadb-install-db mariadb slurmdbd sacctmgr slurmctld slurmd sinfo; do
    [[ -n $(PATH=$PATH:/usr/sbin command -v $program) ]] || die "$program is not installed; the first lines of this script name the packages"
done
export PATH=$PATH:/usr/sbin
port=${SLURM_PORT:-16817}
host=$(hostname -s)
umask 022

# Keys and passwords are this folder's own and go nowhere else.
mkdir -p "$dir"/{munge,database,state,spool}
chmod 700 "$dir"/{database,state,spool}
[[ -f $dir/munge/key ]] || (umask 077 && head -c 128 /dev/urandom >"$dir/munge/key" && head -c 18 /dev/urandom | base64 >"$dir/password")
munged --key-file="$dir/munge/key" --socket="$dir/munge/socket" --pid-file="$dir/munged.pid" \
    --log-file="$dir/munge/log" --seed-file="$dir/munge/seed" --force

[[ -d $dir/database/mysql ]] || mariadb-install-db --no-defaults --datadir="$dir/database" --user=root \
    --auth-root-authentication-method=socket --skip-test-db >"$dir/database.log" 2>&1 || die "no database; see $dir/database.log"
setsid mariadbd --no-defaults --datadir="$dir/database" --user=root --socket="$dir/database/socket" --pid-file="$dir/mariadbd.pid" \
    --bind-address=127.0.0.1 --port="$port" --skip-name-resolve --innodb-lock-wait-timeout=900 --innodb-buffer-pool-size=64M \
    >>"$dir/database.log" 2>&1 </dev/null &
wait_for 60 mariadbd mariadb --no-defaults --socket="$dir/database/socket" -e "select 1"
mariadb --no-defaults --socket="$dir/database/socket" -e "
    create database if not exists slurm_acct_db;
    create user if not exists 'slurm'@'127.0.0.1' identified by '$(<"$dir/password")';
    grant all on slurm_acct_db.* to 'slurm'@'127.0.0.1';"

(umask 077 && cat >"$dir/slurmdbd.conf") <<END
AuthType=auth/munge
AuthInfo=socket=$dir/munge/socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort=$((port + 1))
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=$port
StorageUser=slurm
StoragePass=$(<"$dir/password")
StorageLoc=slurm_acct_db
LogFile=$dir/slurmdbd.log
PidFile=$dir/slurmdbd.pid
END
# Memory is not watched over: the test is about jobs, and a machine of its own gives each what it asks for.
cat >"$dir/slurm.conf" <<END
ClusterName=testbed
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$((port + 2))
SlurmdPort=$((port + 3))
AuthType=auth/munge
AuthInfo=socket=$dir/munge/socket
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=5,batch_sched_delay=1,sched_min_interval=200000
ReturnToService=2
MpiDefault=none
KillWait=30
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$((port + 1))
AccountingStoragePass=$dir/munge/socket
JobAcctGatherType=jobacct_gather/none
NodeName=$host NodeAddr=127.0.0.1 Port=$((port + 3)) CPUs=$(nproc) State=UNKNOWN
PartitionName=debug Nodes=$host Default=YES MaxTime=INFINITE State=UP
END

slurmdbd
wait_for 60 slurmdbd sacctmgr -n show cluster
sacctmgr -n show cluster format=cluster%40 | grep -qw testbed || sacctmgr -i add cluster testbed >/dev/null
slurmctld
wait_for 30 slurmctld sinfo
slurmd
wait_for 30 slurmd bash -c "sinfo --noheader --format=%T | grep -qx idle"
echo "export SLURM_CONF=$dir/slurm.conf"
