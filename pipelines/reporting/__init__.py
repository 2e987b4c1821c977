"""What a run is told with: details behind the averages, sentences, tables, pictures."""
