"""Every setting: its kind, default and meaning. The page docs/settings.md is made from this table."""

from typing import Final

from aiotask.exceptions import ImproperlyConfigured
from aiotask.routing import EXCHANGE_TYPES, Router
from aiotask.settings.checked import CheckedSettings, Setting, not_yet
from aiotask.settings.kinds import (
    ANNOTATIONS,
    ANYTHING,
    FLAG,
    KEY_PREFIX,
    NAME,
    NAMES,
    PROTOCOL,
    QUEUES,
    ROUTES,
    SECRET,
    TEXT,
    URL,
    choice,
    only,
    optional,
    seconds,
    size,
    table,
    whole,
)

DEFAULT_BROKER_URL: Final = "sqlite:///aiotask.db"
"""What `broker_url` None stands for: durable, no server, many processes of one machine."""

_OPTIONAL_NAME: Final = optional(NAME, word=None)
_OPTIONAL_TEXT: Final = optional(TEXT, word=None)
_OPTIONAL_URL: Final = optional(URL, word=None)
_TRANSPORT_OPTIONS: Final = table(
    {"synchronous": choice("FULL", "NORMAL"), "key_prefix": KEY_PREFIX, "queue_type": choice("quorum", "classic")}
)


class Settings(CheckedSettings):
    """The settings of an app: `app.conf`. Durations are read as float seconds, sizes as bytes."""

    broker_url = Setting(_OPTIONAL_URL, None, f"Where messages wait. None: `{DEFAULT_BROKER_URL}`.")
    result_backend = Setting(_OPTIONAL_URL, None, "Where results are kept. None: what the broker implies.")
    imports = Setting(NAMES, [], "Modules that define tasks; a worker imports them at its start.")
    timezone = Setting(only(TEXT, "UTC"), "UTC", "The time zone of schedules.")
    enable_utc = Setting(only(FLAG, True), True, "Times in messages are UTC.")

    task_default_queue = Setting(NAME, "default", "The queue of tasks that name none.")
    task_default_exchange = Setting(
        _OPTIONAL_NAME, None, "The exchange of tasks and queues that name none. None: AMQP's own, by the queue's name."
    )
    task_default_exchange_type = Setting(choice(*EXCHANGE_TYPES), "direct", "The type of exchanges that name none.")
    task_default_routing_key = Setting(
        _OPTIONAL_NAME, None, "The routing key of tasks that name none. None: the name of the default queue."
    )
    task_default_priority = Setting(whole(0, 9), 5, "The priority of tasks that name none; 0 is the most urgent.")
    task_queues = Setting(
        optional(QUEUES), None, "The queues that there are; a worker takes from them all. None: the default queue."
    )
    task_routes = Setting(optional(ROUTES), None, "Which task goes to which queue.")
    task_create_missing_queues = Setting(FLAG, True, "False: a queue that is not in `task_queues` is refused.")
    task_protocol = Setting(
        PROTOCOL, "aiotask", "The message format that is sent: our own, or Celery's, 2. A worker reads both."
    )
    task_acks_late = Setting(
        FLAG, False, "Acknowledge a message when its task has ended, so that a lost worker's tasks are run again."
    )
    task_acks_on_failure_or_timeout = Setting(
        FLAG, True, "False: a late-acknowledged task that fails is dead-lettered as well."
    )
    task_reject_on_worker_lost = Setting(
        FLAG, False, 'Run a late-acknowledged `offload="process"` task again when the process that ran it was lost.'
    )
    task_ignore_result = Setting(FLAG, False, "Store no results.")
    task_store_errors_even_if_ignored = Setting(FLAG, False, "Store failures even where results are ignored.")
    task_track_started = Setting(FLAG, False, "Store the state STARTED, too.")
    task_time_limit = not_yet(optional(seconds()), None, "The hard time limit of tasks that have none.")
    task_soft_time_limit = not_yet(optional(seconds()), None, "The soft time limit of tasks that have none.")
    task_default_rate_limit = not_yet(ANYTHING, None, "The rate limit of tasks that have none.")
    task_serializer = Setting(
        TEXT, "json", "The format of arguments: `json`, `msgpack`, `pickle`, or one that is registered."
    )
    task_compression = Setting(
        _OPTIONAL_TEXT,
        None,
        "The compression of arguments: `gzip`, `bzip2`, `lzma`, `zstd`, or one that is registered.",
    )
    task_always_eager = Setting(FLAG, False, "Run every task where it is called, and send nothing.")
    task_eager_propagates = Setting(FLAG, False, "Raise the errors of tasks that are run where they are called.")
    task_annotations = Setting(
        optional(ANNOTATIONS), None, "Options that are laid over those of the tasks, by their names or `*` for all."
    )
    task_max_deliveries = Setting(
        whole(1), 4, "A message whose worker was lost so many times is dead-lettered, not started again."
    )
    task_queue_max_priority = Setting(
        optional(whole(1, 255)), None, "Make RabbitMQ queues with so many priorities, which makes them classic ones."
    )
    task_send_error_emails = not_yet(FLAG, False, "Send an e-mail for each unexpected failure.")

    accept_content = Setting(
        NAMES,
        ["json"],
        "The formats of arguments that a worker accepts. Whoever can write to the broker can run anything in a worker "
        "that accepts `pickle`.",
    )
    result_accept_content = Setting(
        optional(NAMES, word=None),
        None,
        "The formats of results that are accepted where they are read. None: `accept_content`.",
    )
    result_serializer = Setting(TEXT, "json", "The format of results; exceptions are plain values in each.")
    result_compression = Setting(_OPTIONAL_TEXT, None, "The compression of results.")
    result_expires = Setting(optional(seconds()), "1d", "How long results are kept. None: for ever.")
    result_persistent = Setting(
        FLAG, False, "`rpc://`: results that wait in a reply queue survive a restart of RabbitMQ."
    )
    result_extended = Setting(FLAG, False, "Store arguments and the worker's name with each result.")
    message_max_bytes = Setting(size(1), "1MiB", "Longer messages are refused before they are sent.")

    worker_concurrency = Setting(whole(1), 100, "Most executions at once in one process.")
    worker_threads = Setting(
        optional(whole(1)), None, "Most threads for plain functions in one process. None: `worker_concurrency`."
    )
    worker_processes = Setting(whole(1), 1, "How many worker processes `aiotask run` supervises.")
    worker_prefetch_multiplier = Setting(whole(1), 1, "How many messages a worker takes for each slot.")
    worker_disable_rate_limits = not_yet(FLAG, False, "Pay no attention to rate limits.")
    worker_redirect_stdouts = Setting(FLAG, True, "Turn what tasks print into log records.")
    worker_redirect_stdouts_level = Setting(
        choice("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"), "WARNING", "The level of those log records."
    )
    worker_shutdown_timeout = Setting(
        seconds(zero=True), 30, "How long running tasks may take to end after the worker was told to stop."
    )
    worker_lease = Setting(
        seconds(), 20, "How long a message stays with a worker that gives no sign of life; then another takes it."
    )
    worker_lease_renewal = Setting(seconds(), 5, "How often a worker renews its leases; less than `worker_lease`.")
    worker_reclaim_interval = Setting(seconds(), 5, "How often a worker looks for messages of lost ones.")
    worker_send_task_events = not_yet(FLAG, False, "Send an event for each step in a task's life.")
    worker_log_format = Setting(choice("text", "json"), "text", "What a line of the worker's log looks like.")
    worker_max_tasks = Setting(
        optional(whole(1)), None, "A worker process ends, and is replaced, after so many tasks. None: never."
    )
    worker_loop_stall_limit = Setting(
        seconds(), 60, "A worker whose event loop is blocked for so long gives up its leases."
    )
    worker_setup_logging = Setting(FLAG, True, "False leaves logging to the program.")
    worker_name = Setting(_OPTIONAL_TEXT, None, "The node name; `web` is `web@host`. None: `aiotask@host`.")

    broker_connection_timeout = Setting(seconds(), 5, "How long connecting may take.")
    broker_command_timeout = Setting(seconds(), 5, "How long the server may take to answer.")
    broker_publish_timeout = Setting(seconds(), 10, "How long the server may take to confirm a message.")
    broker_heartbeat = Setting(
        seconds(zero=True), 60, "The interval of RabbitMQ heartbeats. A connection is probed every 5 s in any case."
    )
    broker_transport_options = Setting(
        _TRANSPORT_OPTIONS,
        {},
        "SQLite: `synchronous` FULL survives a power cut, NORMAL a crash of the process. Redis: the keys of queues "
        "begin with `key_prefix`, by default `aiotask`. RabbitMQ: queues are made with `queue_type` quorum or classic; "
        "`key_prefix` begins the names of those for delays.",
    )
    http_dispatch_allow_private = not_yet(FLAG, False, "Let `aiotask.http_dispatch` call private addresses.")

    beat_schedule = not_yet(ANYTHING, {}, "The periodic tasks.")
    beat_max_late = not_yet(optional(seconds()), None, "Skip periodic tasks that are later than that.")

    admins = not_yet(ANYTHING, [], "Who gets the error e-mails.")
    server_email = not_yet(_OPTIONAL_TEXT, None, "The sender of error e-mails.")
    email_host = not_yet(TEXT, "localhost", "The mail server.")
    email_port = not_yet(whole(1, 65535), 25, "Its port.")
    email_host_user = not_yet(_OPTIONAL_TEXT, None, "The user name there.")
    email_host_password = not_yet(optional(SECRET, word=None), None, "The password there.")
    email_use_tls = not_yet(FLAG, False, "Begin TLS after connecting.")
    email_use_ssl = not_yet(FLAG, False, "Connect by TLS.")
    email_timeout = not_yet(seconds(), 10, "How long the mail server may take to answer.")

    router: Router
    """What the settings about queues and routes amount to; made anew whenever one of the settings is set."""

    def check_together(self) -> None:
        """Check that a lease can't end before it is renewed, and that the default queue is one that there is."""
        vars(self)["router"] = self._make_router()
        if self.worker_lease <= self.worker_lease_renewal:
            raise ImproperlyConfigured(
                f"setting 'worker_lease' must be longer than 'worker_lease_renewal', or leases would end before they "
                f"are renewed: {self.worker_lease:g} s (origin: {self.origin('worker_lease')}) against "
                f"{self.worker_lease_renewal:g} s (origin: {self.origin('worker_lease_renewal')}). "
                f"Change both at once: app.conf.update(worker_lease=20, worker_lease_renewal=5)"
            )

    def _make_router(self) -> Router:
        router = Router(
            self.task_queues,
            self.task_routes,
            default_queue=self.task_default_queue,
            default_exchange=self.task_default_exchange,
            default_exchange_type=self.task_default_exchange_type,
            default_routing_key=self.task_default_routing_key,
            create_missing=self.task_create_missing_queues,
        )
        refusal = router.why_undeclared(self.task_default_queue)
        if refusal is not None:
            raise ImproperlyConfigured(
                f"setting 'task_default_queue' (origin: {self.origin('task_default_queue')}) must be one of "
                f"'task_queues' (origin: {self.origin('task_queues')}). {refusal} "
                f"Change both at once: app.conf.update(task_default_queue=..., task_queues=[...])"
            )
        return router


NOT_YET: Final = frozenset(name for name, setting in Settings.catalogue().items() if not setting.available)
"""The settings that this version can't honour: each is refused unless it is given its default."""
