# stile: the folder of links comes first on the PATH, once.
$global:__stile_program = '@STILE@'
$global:__stile_links = '@LINKS@'
$env:PATH = (@($global:__stile_links) + @($env:PATH -split ':' | Where-Object { $_ -and $_ -cne $global:__stile_links })) -join ':'
