# stile: the folder of links comes first on the PATH, once.
__stile_links='@LINKS@'
__stile_path=":${PATH-}:"
while [[ "$__stile_path" == *":$__stile_links:"* ]]; do
	__stile_path=${__stile_path/":$__stile_links:"/:}
done
__stile_path=${__stile_path#:}
__stile_path=${__stile_path%:}
\builtin export PATH="$__stile_links${__stile_path:+:$__stile_path}"
\builtin unset __stile_links __stile_path
