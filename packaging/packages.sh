#!/bin/sh
# Installs what the distribution has to give, and only what is missing: `packages.sh run` for running flowml,
# `packages.sh demo`, `packages.sh test` and `packages.sh bench` for those. Needs root on Debian and Ubuntu; elsewhere it names what to install.
set -eu

have_bcc() { /usr/bin/python3 -c 'import bcc' 2>/dev/null; }
have_seccomp() { /usr/bin/python3 -c 'import seccomp' 2>/dev/null; }
have_venv() { /usr/bin/python3 -c 'import ensurepip, venv' 2>/dev/null; }
have_headers() { [ -e /usr/include/linux/types.h ]; }
have_python_headers() { [ -e "$(/usr/bin/python3 -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" ]; }
have_fuzzer() { # what clang needs to build a fuzz target
	program=$(mktemp)
	echo 'int LLVMFuzzerTestOneInput(void) { return 0; }' |
		clang -fsanitize=fuzzer,address,undefined -x c - -o "$program" 2>/dev/null
	built=$?
	rm -f "$program"
	return $built
}
have() { command -v "$1" >/dev/null 2>&1; }

missing=
need() { # package, then the command that tells whether it is there
	package=$1
	shift
	"$@" || missing="$missing $package"
}

for use in "$@"; do
	case $use in
	run)
		need python3-bpfcc have_bcc
		need python3-venv have_venv
		need python3-seccomp have_seccomp
		need linux-libc-dev have_headers
		need gcc have gcc
		need libc6-dev test -e /usr/include/stdio.h
		need python3-dev have_python_headers
		need libpcap-dev test -e /usr/include/pcap/pcap.h
		need zlib1g-dev test -e /usr/include/zlib.h
		need libzstd-dev test -e /usr/include/zstd.h
		;;
	demo)
		need iproute2 have ip
		need openssl have openssl
		need procps have sysctl
		;;
	test)
		need iproute2 have ip
		need procps have sysctl
		need clang have clang
		need libclang-rt-dev have_fuzzer
		need clang-format have clang-format
		need ethtool have ethtool
		need openssl have openssl
		need tcpdump have tcpdump
		need tcpreplay have tcpreplay
		need tmux have tmux
		need systemd have systemd-analyze
		need groff-base have groff
		need tshark have tshark
		need argus-server have argus
		need argus-client have ra
		need bpftool have bpftool
		need zstd have zstd
		;;
	bench)
		need bpftool have bpftool
		need ethtool have ethtool
		need iperf3 have iperf3
		need iproute2 have ip
		need sockperf have sockperf
		need strace have strace
		need softflowd have softflowd
		need argus-server have argus
		need argus-client have ra
		;;
	esac
done
[ -z "$missing" ] && exit 0

if ! have apt-get; then
	echo "flowml: install what your distribution calls$missing, then run this again" >&2
	exit 1
fi
if [ "$(id -u)" != 0 ]; then
	echo "flowml: packages are missing, and installing them needs root: apt-get install$missing" >&2
	exit 1
fi
# Ubuntu keeps bpftool in a package of the kernel's.
case " $missing " in
*" bpftool "*)
	if grep -q '^ID=ubuntu' /etc/os-release; then
		missing=$(echo "$missing" | sed "s/ bpftool/ linux-tools-common linux-tools-generic/")
	fi
	;;
esac
echo "flowml: installing$missing" >&2
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
install_missing() {
	apt-get update || return 1
	# Where clang's run-time libraries have no package of their own, clang's brings them.
	apt-cache show libclang-rt-dev >/dev/null 2>&1 || missing=$(echo "$missing" | sed 's/ libclang-rt-dev//')
	# shellcheck disable=SC2086 # one word a package
	apt-get install -y --no-install-recommends $missing
}
if ! install_missing >"$log" 2>&1; then
	tail -n 20 "$log" >&2
	echo "flowml: apt-get could not install$missing; all that it said is in $log" >&2
	exit 1
fi
rm -f "$log"
