"""What several test files share: small projects, servers, a browser, hostile input."""
