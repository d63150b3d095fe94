# stile: the folder of links comes first on the PATH, once.
() {
	\builtin emulate -L zsh
	\builtin local stile_links='@LINKS@'
	\builtin export PATH="${(j.:.)${(@)path:#$stile_links}}"
	PATH="$stile_links${PATH:+:$PATH}"
}
