"""Bytes: serializers, message codecs, result rows. No I/O."""
