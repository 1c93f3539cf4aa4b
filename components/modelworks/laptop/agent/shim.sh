# Runs one container and outlives the node agent: sets up its view of the file system, starts its process as leader of a
# session of its own, and writes down how it ended. Runs as first process of a PID namespace where the kernel allows,
# so that whatever the container leaves behind ends with it.
#
#   shim.sh SETSID CHROOT FOLDER ROOT WORKDIR CGROUP COMMAND...
#
# SETSID, CHROOT are those programs' paths, for PATH is the container's own here
# FOLDER    of this run: `setup.sh` is run first if there; `shim`, `main` and `exit` are written here
# ROOT      the container's root folder, or empty for the machine's own
# CGROUP    folder of a memory cgroup that the process joins, or empty
# Standard input is the write end of a pipe on which the agent hears `started`, or what failed.
setsid=$1 chroot=$2 folder=$3 root=$4 work=$5 cgroup=$6
shift 6
exec 3>&0 </dev/null
trap '' HUP INT TERM

# /proc is still the machine's here, so this is the line of this process as the agent sees it, not as its namespace does.
# A process id and a time since boot are unique within one boot only, so that is noted behind them.
read -r line </proc/self/stat
read -r boot </proc/sys/kernel/random/boot_id
echo "$line $boot" >"$folder/shim"

if [ -f "$folder/setup.sh" ] && ! /bin/sh -e "$folder/setup.sh" 2>"$folder/setup.log"; then
    read -r line <"$folder/setup.log"
    echo "failed cannot set up the container's file system: $line" >&3
    echo 128 >"$folder/exit"
    exit 128
fi

(
    trap - HUP INT TERM
    [ -z "$cgroup" ] || echo 0 >"$cgroup/cgroup.procs"
    # Expanded by this shell, which knows the folder; run inside the root, which may not show it.
    inner='cd -- "$1" 2>/dev/null || { echo "failed cannot change to the working directory $1" >&3; exit 128; }
        case $2 in
            */*) [ -x "$2" ] || { echo "failed exec: \"$2\": no such executable file" >&3; exit 128; } ;;
            *) command -v -- "$2" >/dev/null || { echo "failed exec: \"$2\": executable file not found in \$PATH" >&3; exit 128; } ;;
        esac
        shift
        echo started >&3
        exec "$@" 3>&-'
    if [ -n "$root" ]; then
        exec "$setsid" /bin/sh -c 'read -r line </proc/self/stat; echo "$line $2" >"$1/main"; chroot=$3 root=$4 inner=$5; shift 5
            exec "$chroot" "$root" /bin/sh -c "$inner" sh "$@"' sh "$folder" "$boot" "$chroot" "$root" "$inner" "$work" "$@"
    else
        exec "$setsid" /bin/sh -c 'read -r line </proc/self/stat; echo "$line $2" >"$1/main"; inner=$3; shift 3
            exec /bin/sh -c "$inner" sh "$@"' sh "$folder" "$boot" "$inner" "$work" "$@"
    fi
) &
main=$!
wait "$main"
code=$?
kill -KILL -- "-$main" 2>/dev/null
echo "$code" >"$folder/exit"
exit "$code"
