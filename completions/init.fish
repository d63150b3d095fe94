# stile: the folder of links comes first on the PATH, once.
begin
    set -l stile_links '@LINKS@'
    set -l stile_rest
    for stile_dir in $PATH
        if builtin test "$stile_dir" != "$stile_links"
            set -a stile_rest $stile_dir
        end
    end
    set -gx PATH $stile_links $stile_rest
end
