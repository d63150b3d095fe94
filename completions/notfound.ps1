# stile: a command that the host lacks and the guest has. The handler that was
# there before is asked next.
if (-not (Test-Path Variable:global:__stile_not_found)) {
    $global:__stile_not_found_before = $ExecutionContext.InvokeCommand.CommandNotFoundAction
    $global:__stile_not_found = {
        param($Name, $Lookup)
        # PowerShell looks for get-NAME too, which nobody typed.
        if ($Name -notmatch '^get-' -and $Name -notmatch '/') {
            & $global:__stile_program not-found -- $Name
            if ($LASTEXITCODE -eq 0) {
                $Lookup.CommandScriptBlock = { & $global:__stile_program run -- $Name @args }.GetNewClosure()
                $Lookup.StopSearch = $true
                return
            }
        }
        if ($global:__stile_not_found_before) {
            & $global:__stile_not_found_before $Name $Lookup
        }
    }
    $ExecutionContext.InvokeCommand.CommandNotFoundAction = $global:__stile_not_found
}
