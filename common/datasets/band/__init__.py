"""A band that is computed: songs with singers, drums, a bass and other instruments, mixed as in a studio."""
