"""Which images a page shows: by a rule, never by eye."""


def cases(rows, method, than, number):
    """Images where a method gains most over another and where it loses most: two lists of names, the extreme first. rows: of one metric."""
    values = rows[rows["method"].isin([method, than])].pivot_table(index="image_id", columns="method", values="value", sort=False)
    gain = (values[method] - values[than]).dropna().sort_values(kind="stable")
    return list(gain.index[::-1][:number]), list(gain.index[:number])


def by_name(data, names):
    """Samples of a data set by their names, in that order; it is looked through until all are found."""
    found = {}
    for n in range(len(data)):
        if set(names) <= found.keys():
            break
        found[data[n].id] = data[n]
    return [found[name] for name in names]
