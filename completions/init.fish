# stile: the folder of links comes first on the PATH, once.
set -g __stile_program '@STILE@'
set -g __stile_links '@LINKS@'
begin
    set -l stile_rest
    for stile_dir in $PATH
        if builtin test "$stile_dir" != "$__stile_links"
            and not string match -q -r -- '^'(string escape --style=regex '@VIEWS@/') $stile_dir
            set -a stile_rest $stile_dir
        end
    end
    set -gx PATH $__stile_links $stile_rest
    set -e __stile_found
    set -e __stile_bin
end
