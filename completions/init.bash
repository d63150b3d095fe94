# shellcheck shell=bash
# stile: the folder of links comes first on the PATH, once.
__stile_program='@STILE@'
__stile_links='@LINKS@'
__stile_path=""
__stile_rest=${PATH:+$PATH:}
while [[ -n $__stile_rest ]]; do
	__stile_dir=${__stile_rest%%:*}
	__stile_rest=${__stile_rest#*:}
	if [[ $__stile_dir != "$__stile_links" && $__stile_dir != '@VIEWS@'/* ]]; then
		__stile_path=$__stile_path:$__stile_dir
	fi
done
\builtin export PATH="$__stile_links$__stile_path"
\builtin unset __stile_path __stile_rest __stile_dir __stile_found __stile_bin
