# stile: a command that the host lacks and the guest has. The handler that was
# there before is asked next.
if functions -q fish_command_not_found; and not functions -q __stile_not_found_before
    functions fish_command_not_found | string match -q '*__stile_program*'
    or functions -c fish_command_not_found __stile_not_found_before
end
function fish_command_not_found
    $__stile_program not-found -- $argv[1]
    switch $status
        case 0
            $__stile_program run -- $argv
        case 2
            return 127
        case '*'
            if functions -q __stile_not_found_before
                __stile_not_found_before $argv
            else
                __fish_default_command_not_found_handler $argv
            end
    end
end
