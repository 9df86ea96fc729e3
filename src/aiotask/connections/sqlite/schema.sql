-- What a broker and a result backend keep in one SQLite file. Every name begins with aiotask_, so that the file may be
-- the application's own database. Times are epoch seconds. Run in one transaction by database.py, when the file is new or
-- of an older version: it is safe to repeat, and adds what the version before did not have.

CREATE TABLE IF NOT EXISTS aiotask_schema (version INTEGER NOT NULL);
INSERT INTO aiotask_schema SELECT 3 WHERE NOT EXISTS (SELECT 1 FROM aiotask_schema);
UPDATE aiotask_schema SET version = 3 WHERE version < 3;

-- A message from its publishing to its settlement. Its row is written once and deleted once: what changes meanwhile is
-- in the two tables below, so that a large body is not written again by a claim or a start.
CREATE TABLE IF NOT EXISTS aiotask_messages (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL,
    queue TEXT NOT NULL,
    priority INTEGER NOT NULL,
    due_at REAL NOT NULL,
    expires_at REAL,
    content_type TEXT NOT NULL,
    body BLOB NOT NULL
);

-- A message that nobody has, in the order of taking. `line` is its priority, less ten when its consumer was lost.
-- `available_at` is negative when it was given back, to stand ahead of what waits.
CREATE TABLE IF NOT EXISTS aiotask_waiting (
    queue TEXT NOT NULL,
    line INTEGER NOT NULL,
    available_at REAL NOT NULL,
    seq INTEGER NOT NULL,
    deliveries INTEGER NOT NULL,
    losses INTEGER NOT NULL,
    PRIMARY KEY (queue, line, available_at, seq)
) WITHOUT ROWID;

-- A message that nobody has and nobody is given unasked: in the waiting line of that name (version 2). A line is taken
-- from by priority, then in the order of `number`.
CREATE TABLE IF NOT EXISTS aiotask_parked (
    number INTEGER PRIMARY KEY,
    queue TEXT NOT NULL,
    line TEXT NOT NULL,
    priority INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    deliveries INTEGER NOT NULL,
    losses INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS aiotask_parked_by_line ON aiotask_parked (queue, line, priority);

-- A message that a consumer has. A lease's number is never used again, so it is the fence of its handing-out: a lease
-- that was settled, released or reclaimed has no row. No index on `until`: what is in flight is little and read seldom.
CREATE TABLE IF NOT EXISTS aiotask_leases (
    lease INTEGER PRIMARY KEY AUTOINCREMENT,
    seq INTEGER NOT NULL,
    consumer TEXT NOT NULL,
    until REAL NOT NULL,
    started INTEGER NOT NULL,
    deliveries INTEGER NOT NULL,
    losses INTEGER NOT NULL
);

-- Who takes from which queues (a JSON list), and until when that is believed without being said again (version 2).
CREATE TABLE IF NOT EXISTS aiotask_consumers (
    consumer TEXT PRIMARY KEY,
    queues TEXT NOT NULL,
    until REAL NOT NULL
) WITHOUT ROWID;

-- Task ids that must not start (version 3); of the newest the number is highest.
CREATE TABLE IF NOT EXISTS aiotask_revoked (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE
);

-- Who answers commands under which name, and until when that is believed without being said again (version 3).
CREATE TABLE IF NOT EXISTS aiotask_nodes (
    listener TEXT PRIMARY KEY,
    node TEXT NOT NULL,
    until REAL NOT NULL
) WITHOUT ROWID;

-- A command, for the nodes of these names (a JSON list; NULL: for all), of use until then; and its answers (version 3).
-- Who has asked removes both.
CREATE TABLE IF NOT EXISTS aiotask_questions (
    question INTEGER PRIMARY KEY AUTOINCREMENT,
    command TEXT NOT NULL,
    arguments BLOB NOT NULL,
    destination TEXT,
    until REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS aiotask_answers (
    question INTEGER NOT NULL,
    listener TEXT NOT NULL,
    node TEXT NOT NULL,
    answer BLOB NOT NULL,
    PRIMARY KEY (question, listener)
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS aiotask_dead_letters (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL,
    queue TEXT NOT NULL,
    reason TEXT NOT NULL,
    detail TEXT NOT NULL,
    died_at REAL NOT NULL,
    body BLOB NOT NULL,
    body_bytes INTEGER NOT NULL,
    content_type TEXT NOT NULL,
    priority INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS aiotask_dead_letters_by_id ON aiotask_dead_letters (id);

-- A row gets a new, higher `seq` with each change, so that "what changed since N" is one read from the table's end.
CREATE TABLE IF NOT EXISTS aiotask_results (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    final INTEGER NOT NULL,
    expires_at REAL,
    data BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS aiotask_results_by_expiry ON aiotask_results (expires_at) WHERE expires_at IS NOT NULL;
