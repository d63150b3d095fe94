#!/usr/bin/env bash
# deps.sh [build|test|bench|dist|check]: what stile's build (test, ...) needs of
# this system is installed by the system's package manager, after saying what
# and why. It says nothing, and takes milliseconds, when all is there.
#
# A Go that is too old for go.mod installs nothing over the system's: it fetches
# the toolchain that go.mod asks for, as the Go module that it is, from the
# proxy and with the checksums of any module, and $XDG_CACHE_HOME/stile/go leads
# there. The Makefile has that folder in front of PATH.
set -euo pipefail
cd "$(dirname "$0")"

# One need a line: a command, or a file, that is there when the package is; the
# package of Debian and Ubuntu; why.
build='
git                                                git                     the version, and the demo
gcc                                                gcc                     the kernel
/usr/include/stdlib.h                              libc6-dev               the kernel'\''s own tools
ld                                                 binutils                the kernel
flex                                               flex                    the kernel
bison                                              bison                   the kernel
bc                                                 bc                      the kernel
patch                                              patch                   the kernel
xz                                                 xz-utils                the kernel'\''s source
perl                                               perl                    the kernel
/usr/include/libelf.h                              libelf-dev              the kernel'\''s objtool
qemu-system-x86_64                                 qemu-system-x86         runs the guests
mmdebstrap                                         mmdebstrap              stile install debian
/usr/share/keyrings/debian-archive-keyring.gpg     debian-archive-keyring  stile install debian
/etc/ssl/certs/ca-certificates.crt                 ca-certificates         fetching Go modules
'
test='
zsh                                                zsh                     tests of stile init
fish                                               fish                    tests of stile init
/usr/share/bash-completion/bash_completion         bash-completion         tests of completion
busybox                                            busybox-static          a guest of one file
cpio                                               cpio                    reads the initramfs
e2fsck                                             e2fsprogs               reads the disks
zstd                                               zstd                    packs archives to import
python3                                            python3                 makes archives that no tar makes
sudo                                               sudo                    tests of sudo with a linked command
'
dist='
zstd                                               zstd                    packs the kernel
'
bench='
/usr/lib/qemu/virtiofsd                            qemu-system-common      the peer'\''s file server
lz4                                                lz4                     unpacks the peer'\''s kernel
depmod                                             kmod                    the peer'\''s modules
ssh                                                openssh-client          the peer'\''s commands
ssh-keygen                                         openssh-client          the peer'\''s keys
'
check='
shellcheck                                         shellcheck              reads the scripts
shfmt                                              shfmt                   formats the scripts
'

case ${1-build} in
build) needs=$build ;;
test) needs=$build$test ;;
dist) needs=$build$dist ;;
bench) needs=$build$test$bench ;;
check) needs=$check ;;
*)
	echo "usage: ./deps.sh [build|test|bench|dist|check]" >&2
	exit 2
	;;
esac

die() { # LINE... one line a cure
	printf 'deps: %s\n' "$@" >&2
	exit 1
}

# Administrators' programs count, which a user's PATH may lack.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
own=${XDG_CACHE_HOME:-${HOME:?}/.cache}/stile/go
want=$(sed -n 's/^go //p' go.mod)

# Without root, mmdebstrap needs a range of user ids, or libraries that make
# believe (distro/debian/mode.go).
user_needs() {
	if [ "$(id -u)" = 0 ]; then
		return
	elif grep -qs "^$(id -un):" /etc/subuid; then
		echo "newuidmap uidmap stile install debian without root"
	else
		echo "fakechroot fakechroot stile install debian without root"
		echo "fakeroot fakeroot stile install debian without root"
	fi
}

there() { # COMMAND|FILE
	case $1 in
	/*) [ -e "$1" ] ;;
	*) command -v "$1" >/dev/null ;;
	esac
}

missing=() packages=() reasons=
need() { # PROBE PACKAGE WHY
	missing+=("$1")
	case " ${packages[*]-} " in *" $2 "*) return ;; esac
	packages+=("$2")
	reasons+=$(printf '  %-24s%s' "$2" "$3")$'\n'
}

# go_version is that of the Go that works here, empty if there is none. A Go
# that fetches toolchains by itself (GOTOOLCHAIN=auto) does so now.
go_version() { go env GOVERSION 2>/dev/null | sed 's/^go//' || true; }
enough() { # VERSION
	[ -n "$1" ] && [ "$(printf '%s\n' "$want" "$1" | sort -V | head -1)" = "$want" ]
}

# The link of an older go.mod, or to a module cache that is gone, is no use.
if [ -L "$own" ] && ! { [ -x "$own/bin/go" ] && [ "$(sed -n 's/^go//p' "$own/VERSION")" = "$want" ]; }; then
	rm "$own"
fi
[ -L "$own" ] || there go || need go golang-go "builds stile"

while read -r probe package why; do
	[ -z "$probe" ] || there "$probe" || need "$probe" "$package" "$why"
done <<<"$needs$(user_needs)"

if [ ${#missing[@]} != 0 ]; then
	if ! command -v apt-get >/dev/null; then
		die "this system has no apt-get, so install these with what it has: ${missing[*]}" \
			"their packages on Debian are: ${packages[*]}"
	fi
	printf 'deps: these packages are missing:\n%s' "$reasons" >&2
	sudo=()
	install="apt-get install --no-install-recommends ${packages[*]}"
	if [ "$(id -u)" != 0 ]; then
		command -v sudo >/dev/null ||
			die "this user can't install them, and there is no sudo; as root, run:" "  apt-get update && $install"
		sudo=(sudo)
	fi
	printf 'deps: %s\n' "${sudo[*]}${sudo:+ }$install" >&2
	apt() {
		"${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -o Dpkg::Use-Pty=0 "$@" >&2
	}
	# The lists of a fresh system are empty, those of an old one name packages
	# that the mirror has no more. A source that fails may be one that is not
	# needed.
	apt update || echo "deps: some of apt's sources did not answer; trying with the others" >&2
	apt install -y --no-install-recommends "${packages[@]}" ||
		die "apt-get could not install them: see above; the command was:" "  ${sudo[*]}${sudo:+ }$install"
	for probe in "${missing[@]}"; do
		there "$probe" || die "$probe is still missing after the installation"
	done
fi

[ ! -L "$own" ] || exit 0
have=$(go_version)
if ! enough "$have"; then
	# GOTOOLCHAIN=local: this Go is to be asked about itself, and to fetch, and
	# not to become another one on the way.
	export GOTOOLCHAIN=local
	have=$(cd / && go_version)
	module=golang.org/toolchain@v0.0.1-go$want.$(cd / && go env GOOS)-$(cd / && go env GOARCH)
	printf 'deps: the Go here is %s, go.mod asks for %s: fetching %s\n' "${have:-broken}" "$want" "$module" >&2
	field() { sed -n "s/^\t\"$1\": \"\(.*\)\",*$/\1/p" <<<"$answer"; }
	empty=$(mktemp -d)
	trap 'rm -rf "$empty"' EXIT
	# In a folder with no go.mod, for this one's is not for an old Go.
	answer=$(cd "$empty" && GOFLAGS='' go mod download -json "$module") || die "go could not fetch it: $(field Error)" \
		"install Go $want by hand, or see that GOPROXY ($(cd / && go env GOPROXY)) serves $module"
	dir=$(field Dir)
	[ -x "$dir/bin/gofmt" ] || chmod -R u+x,go+x "$dir/bin" "$dir"/pkg/tool # modules hold no executable files
	(umask 077 && mkdir -p "$(dirname "$own")")
	ln -s "$dir" "$own.$$"
	mv -T "$own.$$" "$own"
	"$own/bin/go" version >&2 || die "the toolchain in $dir does not run here"
fi
