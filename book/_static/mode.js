// Who has not chosen light or dark has what the system prefers; the theme would take that for an error.
document.documentElement.dataset.mode ||= "auto";
