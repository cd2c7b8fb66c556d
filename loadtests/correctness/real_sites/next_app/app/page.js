import Image from "next/image";
import Link from "next/link";

export const revalidate = 60;

export default function Home() {
  return (
    <main>
      <h1>Page of everybody</h1>
      <Image src="/picture.png" alt="" width={640} height={400} />
      {Array.from({ length: 10 }, (_, number) => (
        <Link key={number} href={`/posts/post-${number}`} prefetch={number < 5 ? undefined : false}>{`Post ${number}`}</Link>
      ))}
    </main>
  );
}
