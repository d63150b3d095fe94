# stile: before each prompt and after each cd, whether the folder has a
# .stile.toml of its own. No process is started unless that file is another one.
function __stile_prompt_hook --on-event fish_prompt --on-variable PWD
    set -l stile_status $status
    set -l stile_dir $PWD
    set -l stile_file ''
    while true
        if builtin test -f "$stile_dir/.stile.toml"
            set stile_file "$stile_dir/.stile.toml"
            break
        end
        builtin test -n "$stile_dir"; or break
        set stile_dir (string replace -r '/[^/]*$' '' -- $stile_dir)
    end
    set -q __stile_found; or set -g __stile_found ''
    set -q __stile_bin; or set -g __stile_bin ''
    set -l stile_quiet ''
    if builtin test "$stile_file" = "$__stile_found"
        builtin test -n "$stile_file"; or return $stile_status
        if builtin test -n "$__stile_bin" -a -d "$__stile_bin"
            # fish 3.6 has no -nt of its own: the file's time is asked of the view.
            command test "$stile_file" -nt (string replace -r '/bin$' /of -- $__stile_bin); or return $stile_status
        end
        set stile_quiet 1
    end
    if builtin test -n "$__stile_bin"
        set -gx PATH (string match -v -- $__stile_bin $PATH)
    end
    set -g __stile_found $stile_file
    set -g __stile_bin ''
    if builtin test -n "$stile_quiet"
        set -g __stile_bin ($__stile_program view $stile_file 2>/dev/null)
    else if builtin test -n "$stile_file"
        set -g __stile_bin ($__stile_program view $stile_file)
    end
    if builtin test -n "$__stile_bin"
        set -gx PATH $__stile_bin $PATH
    end
    return $stile_status
end
