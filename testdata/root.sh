# shellcheck shell=bash disable=SC1091,SC2016
# A bare system to try things in, for the scripts that source this file: made by
# mmdebstrap from the mirrors of this machine's own apt, and entered as a
# container, in namespaces of its own, so that nothing of it outlives the command
# and no mount of it is ever in this system.

# root_possible says why there can be none.
root_possible() {
	if [ "$(id -u)" != 0 ]; then
		echo "it needs root, for a chroot"
	elif ! unshare --mount --pid --fork true 2>/dev/null; then
		echo "this system lets root make no namespaces"
	elif ! command -v apt-get >/dev/null; then
		echo "it needs apt's mirrors: this is no Debian or Ubuntu"
	fi
}

# root_sources prints the sources.list of this system's own release.
root_sources() {
	local format='$(CREATED_BY)|$(ORIGIN)|$(RELEASE)|$(REPO_URI)|$(SIGNED_BY)' id
	id=$(. /etc/os-release && echo "$ID")
	# Before the first apt-get update nothing says whose an index is.
	[ -n "$(find /var/lib/apt/lists -maxdepth 1 -name '*Release' -print -quit)" ] || apt-get -q update >&2
	apt-get indextargets --format "$format" | awk -F'|' -v id="$id" '
		$1 == "Packages" && tolower($2) == id && $3 !~ /backports/ && !seen[$3, $4]++ {
			print "deb " ($5 ~ /^\// ? "[signed-by=" $5 "] " : "") $4, $3, "main" (id == "ubuntu" ? " universe" : "")
		}'
}

# root_make FOLDER PACKAGES: a minimal system with some packages (with commas).
# This machine's proxies and certificate authorities are in it, for its mirrors
# and its Go proxy may need them.
root_make() {
	local list suite options=() line
	list=$(root_sources)
	suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
	[ -n "$list" ] || {
		echo "apt has no mirror of $suite here" >&2
		return 1
	}
	while read -r line; do
		[ -z "$line" ] || options+=(--aptopt="$line")
	done < <(apt-config dump Acquire::http::Proxy Acquire::https::Proxy Acquire::Check-Valid-Until | grep -v '"";$')
	mmdebstrap --quiet --variant=minbase --include="$2" "${options[@]}" "$suite" "$1" - <<<"$list"
	if [ -d /usr/local/share/ca-certificates ]; then
		mkdir -p "$1/usr/local/share"
		cp -a /usr/local/share/ca-certificates "$1/usr/local/share/"
		[ ! -x "$1/usr/sbin/update-ca-certificates" ] || chroot "$1" update-ca-certificates >/dev/null 2>&1
	fi
	cp -L /etc/resolv.conf /etc/hosts "$1/etc/"
}

# root_run FOLDER COMMAND...: as root in there, with nothing of the environment
# but what Go needs to find its proxy. When the command ends, so does all that
# it started.
root_run() {
	local root=$1 name env=(HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin TERM=dumb)
	shift
	for name in http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY; do
		[ -z "${!name-}" ] || env+=("$name=${!name}")
	done
	if command -v go >/dev/null; then
		for name in GOPROXY GOSUMDB GONOSUMDB GOPRIVATE; do
			env+=("$name=$(go env "$name")")
		done
	fi
	unshare --mount --propagation private --pid --fork --kill-child bash -euc '
		root=$1
		shift
		mount --bind "$root" "$root"
		mount -t proc proc "$root/proc"
		mount --rbind /sys "$root/sys"
		mount --rbind /dev "$root/dev"
		exec chroot "$root" "$@"' bash "$root" env -i "${env[@]}" "$@"
}

# root_remove FOLDER
root_remove() { rm -rf --one-file-system "$1"; }
