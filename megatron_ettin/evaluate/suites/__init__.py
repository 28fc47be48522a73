"""What every suite shares: models under evaluation, local data, results that are never lost, and tables of them."""
