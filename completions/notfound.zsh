# stile: a command that the host lacks and the guest has. The handler that was
# there before is asked next.
\builtin zmodload zsh/parameter
if [[ -n ${functions[command_not_found_handler]-} && ${functions[command_not_found_handler]} != *__stile_program* ]]; then
	functions[__stile_not_found_before]=${functions[command_not_found_handler]}
fi
command_not_found_handler() {
	\builtin local stile_status=0
	"$__stile_program" not-found -- "$1" || stile_status=$?
	case $stile_status in
	0)
		"$__stile_program" run -- "$@"
		\builtin return
		;;
	2) \builtin return 127 ;;
	esac
	if [[ -n ${functions[__stile_not_found_before]-} ]]; then
		__stile_not_found_before "$@"
		\builtin return
	fi
	\builtin print -ru2 -- "zsh: command not found: $1"
	\builtin return 127
}
