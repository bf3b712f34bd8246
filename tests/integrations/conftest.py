from search_fixtures import *  # noqa: F403 (every room of search has the same fixtures)
