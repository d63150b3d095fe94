# stile: the guest's own completion functions answer for its commands.
$global:__stile_complete = {
    param($Word, $Ast, $Cursor)
    $Words = @($Ast.CommandElements | Where-Object { $_.Extent.EndOffset -lt $Cursor } | ForEach-Object {
            if ($_ -is [System.Management.Automation.Language.StringConstantExpressionAst]) { $_.Value } else { $_.Extent.Text }
        })
    foreach ($Line in @(& $global:__stile_program complete pwsh @Words $Word 2>$null)) {
        $Text, $Description = $Line -split "`t", 2
        if (-not $Description) { $Description = $Text }
        $Quoted = if ($Text -match '[\s''"`$;|&(){}<>@#,]') { "'" + ($Text -replace "'", "''") + "'" } else { $Text }
        [System.Management.Automation.CompletionResult]::new($Quoted, $Text, 'ParameterValue', $Description)
    }
}
Register-ArgumentCompleter -Native -ScriptBlock $global:__stile_complete -CommandName (
    @('stile') + @(Get-ChildItem -LiteralPath $global:__stile_links -ErrorAction SilentlyContinue | ForEach-Object Name))
