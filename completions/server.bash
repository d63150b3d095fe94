# The completion server of a distro: a bash that has loaded bash-completion and
# answers one request after the other, each in a fork of its own, so that what a
# completion function leaves behind, or ends, is gone with the fork.
#
# A request is a line with a number of bytes, and that many bytes of bash code
# that set the variables __stile_r_*. An answer is a row of fields, each ended by
# a NUL byte, whose first character says what it is:
#
#	O flag    an option of complete -o (nospace, filenames, ...)
#	F kind pattern cur    (fields of their own) file names that the host completes
#	C text    a candidate, as a function puts it into COMPREPLY
#	V text    size and time of the command's file, if the request asked for it
#	E status  the end: 0, or 1 if the function did not come to its own
#
# Descriptors from 20 on are ours: argcomplete uses 8 and 9.

# shellcheck disable=SC1090 # what is sourced is the guest's
# shellcheck disable=SC2154 # the request sets __stile_r_*
# shellcheck disable=SC2317 # some functions are called by completion functions only
exec 20>&1 21<&0 </dev/null >/dev/null 2>/dev/null
exec 22<> <(:) # a pipe: a fork says there that it is done
shopt -s extglob progcomp
# compgen -f takes quotes away only where readline is there, which bind starts.
bind -V
COMP_WORDBREAKS=$' \t\n"\'><=;|&(:'
declare -A __stile_spec __stile_loaded

for __stile_f in /usr/share/bash-completion/bash_completion /etc/bash_completion; do
	if [[ -r $__stile_f ]]; then
		. "$__stile_f"
		break
	fi
done
COMP_WORDBREAKS=$' \t\n"\'><=;|&(:'
unset __stile_f

# The options of the command's own; compopt itself works under readline only.
compopt() {
	local on=1
	while (($#)); do
		case $1 in
		-o | +o)
			[[ $1 == -o ]] && on=1 || on=
			if [[ ${2-} ]]; then
				__stile_flags[$2]=$on
				shift
			fi
			;;
		esac
		shift
	done
	return 0
}

# What cobra generates asks whether compopt is a builtin, and does without if not.
type() {
	if [[ $* == "-t compopt" ]]; then
		echo builtin
	else
		builtin type "$@"
	fi
}

# File names are the host's: what is typed there means files there. Names in
# folders that only the guest has stay with the functions of bash-completion.
__stile_host_files() {
	_filedir() {
		local kind=files pattern=${1-}
		if [[ $pattern == -d ]]; then
			kind=dirs pattern=
		fi
		__stile_files+=("$kind" "$pattern" "${cur-}")
	}
	_comp_compgen_filedir() { _filedir "$@"; }
}

# __stile_find puts the words of the command's `complete` into __stile_spec.
__stile_find() {
	local name=$1 spec
	if ! spec=$(complete -p -- "$name" 2>/dev/null); then
		if declare -F _comp_load >/dev/null; then
			_comp_load "$name"
		elif declare -F __load_completion >/dev/null; then
			__load_completion "$name"
		else
			return 1
		fi
		spec=$(complete -p -- "$name" 2>/dev/null) || return 1
	fi
	__stile_spec[$name]=$spec
}

__stile_answer() {
	# Their names are long, for a completion function sees them.
	local __stile_name=$__stile_r_name __stile_base=${__stile_r_name##*/}
	local __stile_func="" __stile_command="" __stile_arg
	local -A __stile_flags=()
	local -a __stile_files=() __stile_action=() __stile_words=()
	cd -- "$__stile_r_dir" || cd /
	[[ $__stile_r_files == host ]] && __stile_host_files
	[[ ${__stile_spec[$__stile_base]-} ]] || __stile_find "$__stile_base"
	eval "__stile_words=(${__stile_spec[$__stile_base]-})"
	set -- "${__stile_words[@]:1}"
	while (($# > 1)); do
		case $1 in
		-o) __stile_flags[$2]=1 && shift ;;
		-F) __stile_func=$2 && shift ;;
		-C) __stile_command=$2 && shift ;;
		-A | -G | -W | -P | -S | -X)
			case $1$2 in -G* | -Afile | -Adirectory) __stile_flags[filenames]=1 ;; esac
			__stile_action+=("$1" "$2")
			shift
			;;
		-f | -d) __stile_flags[filenames]=1 && __stile_action+=("$1") ;;
		-?) __stile_action+=("$1") ;;
		esac
		shift
	done
	COMP_LINE=$__stile_r_line COMP_POINT=$__stile_r_point COMP_WORDS=("${__stile_r_words[@]}")
	# 37 is what menu-complete sends: cobra's functions then give bare candidates.
	COMP_CWORD=$__stile_r_index COMP_TYPE=37 COMP_KEY=9 COMPREPLY=()
	if [[ $__stile_func ]]; then
		"$__stile_func" "$__stile_name" "$__stile_r_cur" "$__stile_r_prev"
		# 124 asks to look again: the function has found a better one.
		if (($? == 124)) && [[ ! ${__stile_again-} ]]; then
			local __stile_again=1
			unset "__stile_spec[$__stile_base]"
			__stile_answer
			return
		fi
	fi
	if [[ $__stile_command ]]; then
		export COMP_LINE COMP_POINT COMP_TYPE COMP_KEY
		mapfile -t __stile_words < <(eval "$__stile_command \"\$__stile_name\" \"\$__stile_r_cur\" \"\$__stile_r_prev\"")
		COMPREPLY+=("${__stile_words[@]}")
	fi
	if ((${#__stile_action[@]})); then
		mapfile -t __stile_words < <(compgen "${__stile_action[@]}" -- "$__stile_r_cur")
		COMPREPLY+=("${__stile_words[@]}")
	fi
	# Folders that only the guest has the host's shell can't know for folders.
	if [[ $__stile_r_files != host && ${__stile_flags[filenames]-} ]]; then
		for __stile_arg in "${!COMPREPLY[@]}"; do
			[[ -d ${COMPREPLY[__stile_arg]} ]] && COMPREPLY[__stile_arg]=${COMPREPLY[__stile_arg]%/}/
		done
	fi
	for __stile_arg in "${!__stile_flags[@]}"; do
		[[ ${__stile_flags[$__stile_arg]} ]] && printf 'O%s\0' "$__stile_arg"
	done >&20
	((${#__stile_files[@]})) && printf 'F%s\0%s\0%s\0' "${__stile_files[@]}" >&20
	((${#COMPREPLY[@]})) && printf 'C%s\0' "${COMPREPLY[@]}" >&20
	if [[ ! $__stile_func$__stile_command && ${#__stile_action[@]} == 0 ]]; then
		printf 'Ffiles\0\0%s\0' "$__stile_r_cur" >&20
	fi
	if [[ $__stile_r_version ]]; then
		printf 'V%s\0' "$(stat -L -c %s-%Y -- "$(builtin type -P -- "$__stile_name")")" >&20
	fi
}

# A fork in a process group of its own can be ended with all that it started.
set -m
while IFS= read -r -u 21 __stile_n && IFS= LC_ALL=C read -r -N "$__stile_n" -u 21 __stile_code; do
	(
		set +m
		trap 'printf "%s" "${__stile_done:-1}" >&22' EXIT
		exec 21<&-
		eval "$__stile_code"
		__stile_answer
		__stile_done=0
	) &
	__stile_status=1
	IFS= read -r -N 1 -t "${__stile_limit:-15}" -u 22 __stile_status || {
		kill -KILL -- "-$!"
		IFS= read -r -N 1 -t 0.01 -u 22 # what it may have said just then
		__stile_status=1
	}
	wait "$!"
	printf 'E%s\0' "$__stile_status" >&20
	# The next fork finds the command's functions, and what they cache, loaded.
	# Only where a fork has shown that it does no harm.
	eval "${__stile_code%%$'\n'*}" # the first line: the name
	if [[ $__stile_status == 0 && ! ${__stile_loaded[${__stile_r_name##*/}]-} ]]; then
		__stile_loaded[${__stile_r_name##*/}]=1
		__stile_find "${__stile_r_name##*/}"
	fi
done
