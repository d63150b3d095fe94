# shellcheck shell=bash disable=SC2154 # init.bash sets __stile_program
# stile: the guest's own completion functions answer for its commands.
__stile_complete() {
	\builtin local IFS=$' \t\n' __stile_options __stile_option
	\builtin mapfile -d '' -t COMPREPLY < <("$__stile_program" complete bash "$COMP_LINE" "$COMP_POINT" "$COMP_WORDBREAKS" 2>/dev/null)
	__stile_options=${COMPREPLY[0]-default}
	COMPREPLY=("${COMPREPLY[@]:1}")
	for __stile_option in $__stile_options; do
		\builtin compopt -o "$__stile_option" 2>/dev/null
	done
	\builtin return 0
}

# __stile_complete_links is for all links there are now, those of a folder's
# .stile.toml too.
__stile_complete_links() {
	\builtin local - __stile_dir __stile_name
	\builtin set +f
	for __stile_dir in "${__stile_bin-}" "$__stile_links"; do
		if [[ -z $__stile_dir ]] || ! \builtin compgen -G "$__stile_dir/*" >/dev/null; then
			\builtin continue
		fi
		for __stile_name in "$__stile_dir"/*; do
			__stile_name=${__stile_name##*/}
			if [[ ${__stile_completed-} != *"/$__stile_name/"* ]]; then
				__stile_completed=${__stile_completed-}/$__stile_name/
				\builtin complete -F __stile_complete -- "$__stile_name"
			fi
		done
	done
}

__stile_completed=""
__stile_complete_links
\builtin complete -F __stile_complete stile
