# Becomes the first process of a new PID namespace, and runs a systemd of its
# own in it. Arguments: another root directory or an empty word, the directory
# of the test, and the control groups to make.
set -u

cannot() {
    echo "cannot $1" >&2
    exit 1
}

root=$1 base=$2
shift 2
mount --make-rprivate / || cannot 'keep mounts to itself'
for group; do
    mkdir "$group" && echo 0 > "$group/cgroup.procs" || cannot "use $group"
done
if [ -n "$root" ]; then
    mount --rbind /sys "$root/sys" &&
        mount --rbind /dev "$root/dev" &&
        mount -t proc proc "$root/proc" &&
        mount -t tmpfs tmpfs "$root/tmp" &&
        mkdir -p "$root$base" &&
        mount --bind "$base" "$root$base" || cannot "enter $root"
fi
# Without this directory it believes that another init is in charge.
mount -t tmpfs tmpfs "$root/run" &&
    mkdir -p "$root/run/systemd/system" "$root/run/systemd/journal" &&
    ln -s "$base/records" "$root/run/systemd/journal/socket" || cannot 'replace /run'

# It refuses to be the first process itself.
exec chroot "${root:-/}" /bin/sh -c '
    for program in /usr/lib/systemd/systemd /lib/systemd/systemd; do
        if [ -x "$program" ]; then
            "$program" --user --unit=basic.target &
            wait $!
            exit
        fi
    done
    echo "cannot find systemd" >&2
    exit 1
'
