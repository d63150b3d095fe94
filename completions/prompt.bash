# shellcheck shell=bash disable=SC2154 # init.bash sets __stile_program
# stile: before each prompt, whether the folder has a .stile.toml of its own, and
# new links get completed. No process is started unless that file is another one.
__stile_prompt_hook() {
	\builtin local __stile_status=$? __stile_dir=${PWD-} __stile_file=""
	while [[ -n $__stile_dir ]]; do
		if [[ -f $__stile_dir/.stile.toml ]]; then
			__stile_file=$__stile_dir/.stile.toml
			break
		fi
		__stile_dir=${__stile_dir%/*}
	done
	if [[ -z $__stile_file && -f /.stile.toml ]]; then
		__stile_file=/.stile.toml
	fi
	if [[ $__stile_file != "${__stile_found-}" ]]; then
		__stile_view "$__stile_file" ""
	elif [[ -n $__stile_file ]] && [[ -z ${__stile_bin-} || ! -d $__stile_bin || $__stile_file -nt ${__stile_bin%/bin}/of ]]; then
		__stile_view "$__stile_file" quiet
	fi
	if \builtin declare -F __stile_complete_links >/dev/null; then
		__stile_complete_links
	fi
	\builtin return "$__stile_status"
}

# __stile_view puts the links that a file wants before the others, and those of
# the file before out of the PATH. A file that is not trusted is told of once.
__stile_view() {
	\builtin local __stile_path=":${PATH-}:"
	if [[ -n ${__stile_bin-} ]]; then
		while [[ $__stile_path == *":$__stile_bin:"* ]]; do
			__stile_path=${__stile_path/":$__stile_bin:"/:}
		done
	fi
	__stile_found=$1 __stile_bin=""
	if [[ -n $1 ]]; then
		if [[ -n $2 ]]; then
			__stile_bin=$("$__stile_program" view "$1" 2>/dev/null) || __stile_bin=""
		else
			__stile_bin=$("$__stile_program" view "$1") || __stile_bin=""
		fi
	fi
	__stile_path=${__stile_path#:}
	__stile_path=${__stile_path%:}
	\builtin export PATH="${__stile_bin:+$__stile_bin:}$__stile_path"
}

if [[ ${PROMPT_COMMAND[*]-} != *__stile_prompt_hook* ]]; then
	# The first element, where it is an array: $? is still the command's own.
	PROMPT_COMMAND="__stile_prompt_hook${PROMPT_COMMAND:+;$PROMPT_COMMAND}"
fi
