<?php
// Every parameter of the delivery, in PHP's own notation, at the end of a file: run by php -S.
$entry = date(DATE_ATOM) . "\n" . print_r($_REQUEST, true) . "\n";
file_put_contents(getenv('DELIVERIES_LOG'), $entry, FILE_APPEND);
