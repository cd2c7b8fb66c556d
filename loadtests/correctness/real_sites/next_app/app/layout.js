import Link from "next/link";

export const metadata = { title: "A site" };

export default function Layout({ children }) {
  return (
    <html lang="en">
      <body>
        <nav><Link href="/">Home</Link> <Link href="/posts/post-0">First</Link> <Link href="/account">Account</Link></nav>
        {children}
      </body>
    </html>
  );
}
