"""Files of users and ours: whole writes, bounded reads, columns, ids, weights, system errors."""
