"""Who may enter where and when, as the site's people manage it; policies are compiled from it."""
