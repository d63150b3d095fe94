# shellcheck shell=bash disable=SC2154 # init.bash sets __stile_program
# stile: a command that the host lacks and the guest has. The handler that was
# there before is asked next.
if \builtin declare -F command_not_found_handle >/dev/null; then
	__stile_before=$(\builtin declare -f command_not_found_handle)
	if [[ $__stile_before != *__stile_program* ]]; then
		\builtin eval "__stile_not_found_before ${__stile_before#command_not_found_handle}"
	fi
	\builtin unset __stile_before
fi
command_not_found_handle() {
	\builtin local __stile_status=0
	"$__stile_program" not-found -- "$1" || __stile_status=$?
	case $__stile_status in
	0)
		"$__stile_program" run -- "$@"
		\builtin return
		;;
	2) \builtin return 127 ;;
	esac
	if \builtin declare -F __stile_not_found_before >/dev/null; then
		__stile_not_found_before "$@"
		\builtin return
	fi
	\builtin printf '%s: %s: command not found\n' "${0##*/}" "$1" >&2
	\builtin return 127
}
