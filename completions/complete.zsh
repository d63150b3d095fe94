# stile: the guest's own completion functions answer for its commands.
__stile_complete() {
	\builtin local -a stile_out stile_names stile_texts stile_group
	\builtin local stile_kind stile_head='' stile_i
	stile_out=("${(@0)$("$__stile_program" complete zsh "${(@Q)words[1,CURRENT-1]}" "$QIPREFIX$PREFIX" 2>/dev/null)}")
	if [[ ${stile_out[1]-native} == *native* ]]; then
		_files
		\builtin return
	fi
	# What all candidates begin with is no part of what is listed, where the word
	# has no quotes that would be counted.
	if [[ -n ${stile_out[2]} && $PREFIX == ${(b)stile_out[2]}* && $PREFIX == ${(Q)PREFIX} && -z $QIPREFIX ]]; then
		stile_head=${stile_out[2]}
		\builtin compset -p ${#stile_head}
	fi
	[[ ${stile_out[1]} == *nosort* ]] && stile_group=(-V stile) || stile_group=(-J stile)
	\builtin local stile_found=1
	for stile_kind in w o f d; do
		stile_names=() stile_texts=()
		for (( stile_i = 3; stile_i < ${#stile_out}; stile_i += 2 )); do
			[[ ${stile_out[stile_i][1]} == $stile_kind ]] || continue
			stile_names+=("${${stile_out[stile_i]}[2,-1]#$stile_head}")
			stile_texts+=("${stile_names[-1]}${stile_out[stile_i+1]:+  -- ${stile_out[stile_i+1]}}")
		done
		(( ${#stile_names} )) || continue
		case $stile_kind in
		w)
			if [[ ${(j::)stile_texts} == ${(j::)stile_names} ]]; then
				\builtin compadd "${stile_group[@]}" -- "${stile_names[@]}" && stile_found=0
			else
				\builtin compadd "${stile_group[@]}" -l -d stile_texts -- "${stile_names[@]}" && stile_found=0
			fi
			;;
		o) \builtin compadd "${stile_group[@]}" -S '' -- "${stile_names[@]}" && stile_found=0 ;;
		f) \builtin compadd "${stile_group[@]}" -f -- "${stile_names[@]}" && stile_found=0 ;;
		d) \builtin compadd "${stile_group[@]}" -f -S / -q -- "${stile_names[@]}" && stile_found=0 ;;
		esac
	done
	\builtin return $stile_found
}

# __stile_complete_links is for all links there are now. It has to wait until
# compinit has been called, which may come later in the rc file.
__stile_complete_links() {
	(( ${+functions[compdef]} )) || \builtin return 0
	\builtin emulate -L zsh
	\builtin local stile_name
	for stile_name in stile "${__stile_bin:-/nowhere}"/*(N:t) "$__stile_links"/*(N:t); do
		if [[ ${_comps[$stile_name]-} != __stile_complete ]]; then
			compdef __stile_complete "$stile_name"
		fi
	done
}

__stile_complete_links
