# stile: the folder of links comes first on the PATH, once.
__stile_program='@STILE@'
__stile_links='@LINKS@'
() {
	\builtin emulate -L zsh
	\builtin local stile_views='@VIEWS@'
	\builtin export PATH="${(j.:.)${(@)${(@)path:#$__stile_links}:#$stile_views/*}}"
	PATH="$__stile_links${PATH:+:$PATH}"
	\builtin unset __stile_found __stile_bin
}
