"""What a run was trained on, computed again."""
