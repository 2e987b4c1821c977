"""Both losses over an item table whose rows are spread over the processes of a group."""
