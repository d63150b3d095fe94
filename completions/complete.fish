# stile: the guest's own completion functions answer for its commands. fish loads
# a command's completions from the first folder that has a file of its name: ours
# has one for each link.
function __stile_complete
    set -l stile_words (commandline -opc)
    set -l stile_out ($__stile_program complete fish $stile_words (commandline -ct) 2>/dev/null)
    if builtin test $status -eq 3
        # Of a command that has no completions of its own: file names.
        complete -C "'' "(commandline -ct)
    else if builtin test (count $stile_out) -gt 0
        printf '%s\n' $stile_out
    end
end
if not contains -- '@FISH@' $fish_complete_path
    set -g fish_complete_path '@FISH@' $fish_complete_path
end
complete -c stile -f -a '(__stile_complete)'
