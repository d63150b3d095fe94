# stile: before each prompt and after each cd, whether the folder has a
# .stile.toml of its own. No process is started unless that file is another one.
__stile_prompt_hook() {
	\builtin local stile_status=$?
	\builtin emulate -L zsh
	\builtin local stile_dir=$PWD stile_file='' stile_quiet=''
	while \builtin true; do
		if [[ -f $stile_dir/.stile.toml ]]; then
			stile_file=$stile_dir/.stile.toml
			break
		fi
		[[ -n $stile_dir ]] || break
		stile_dir=${stile_dir%/*}
	done
	if [[ $stile_file != ${__stile_found-} ]]; then
		:
	elif [[ -n $stile_file ]] && [[ -z ${__stile_bin-} || ! -d $__stile_bin || $stile_file -nt ${__stile_bin%/bin}/of ]]; then
		stile_quiet=1
	else
		if (( ${+functions[__stile_complete_links]} )); then
			__stile_complete_links
		fi
		\builtin return $stile_status
	fi
	[[ -z ${__stile_bin-} ]] || path=("${(@)path:#$__stile_bin}")
	\builtin typeset -g __stile_found=$stile_file __stile_bin=''
	if [[ -n $stile_quiet ]]; then
		__stile_bin=$("$__stile_program" view "$stile_file" 2>/dev/null) || __stile_bin=''
	elif [[ -n $stile_file ]]; then
		__stile_bin=$("$__stile_program" view "$stile_file") || __stile_bin=''
	fi
	[[ -z $__stile_bin ]] || path=("$__stile_bin" "${(@)path}")
	if (( ${+functions[__stile_complete_links]} )); then
		__stile_complete_links
	fi
	\builtin return $stile_status
}

() {
	\builtin emulate -L zsh
	\builtin zmodload zsh/parameter
	\builtin typeset -ga precmd_functions chpwd_functions
	(( ${precmd_functions[(Ie)__stile_prompt_hook]} )) || precmd_functions=(__stile_prompt_hook "${(@)precmd_functions}")
	(( ${chpwd_functions[(Ie)__stile_prompt_hook]} )) || chpwd_functions+=(__stile_prompt_hook)
}
